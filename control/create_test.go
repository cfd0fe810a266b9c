package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
)

// bodies are wrong for every route that reads one.
var bodies = map[string]string{
	"empty":             " ",
	"not JSON":          `{"template_id"`,
	"trailing garbage":  `{"template_id":"1"} x`,
	"two objects":       `{"template_id":"1"}{}`,
	"single quotes":     `{'template_id':'1'}`,
	"a comment":         `{"template_id":"1"/* hi */}`,
	"a trailing comma":  `{"template_id":"1",}`,
	"NaN":               `{"template_id":"1","timeout_seconds":NaN}`,
	"a BOM":             "\ufeff" + `{"template_id":"1"}`,
	"null":              `null`,
	"an array":          `[{"template_id":"1"}]`,
	"a string":          `"template_id"`,
	"a number":          `1`,
	"invalid UTF-8":     "{\"template_id\":\"1\",\"x\":\"\xff\"}",
	"UTF-8 of half":     "{\"template_id\":\"1\",\"x\":\"\xed\xa0\x80\"}",
	"half a surrogate":  `{"template_id":"1","x":"\ud800"}`,
	"the other half":    `{"template_id":"1","x":"\udc00"}`,
	"halves turned":     `{"template_id":"1","x":"\udc00\ud800"}`,
	"half and a letter": `{"template_id":"1","x":"\ud83dA"}`,
	"half and an n":     `{"template_id":"1","x":"\ud83d\n1234"}`,
	"half in a key":     `{"template_id":"1","\ud83d":1}`,
	"a raw newline":     "{\"template_id\":\"1\n\"}",
	"deep arrays":       `{"template_id":"1","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	"deep objects":      `{"template_id":"1","x":` + strings.Repeat(`{"x":`, 100) + "1" + strings.Repeat("}", 100) + `}`,
	"very deep":         strings.Repeat("[", maxBody),
	"deep and unclosed": `{"template_id":"1","x":` + strings.Repeat(`{"x":`, 5000),
}

func TestBadBodies(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	for name, body := range bodies {
		for _, a := range []ask{
			{method: "POST", path: "/v1/sandboxes"},
			{method: "PUT", path: "/v1/sandboxes/" + id + "/timeout"},
			{method: "POST", path: "/v1/api-keys"},
		} {
			a.body = body
			out := w.want(400, a)
			if out.body["code"] != "INVALID_JSON" {
				t.Errorf("%s to %s: %s", name, a.path, out.Body)
			}
		}
	}
	w.want(400, ask{method: "POST", path: "/v1/sandboxes"})
	if w.fake.calls != 2 { // the create above and its token
		t.Errorf("%d calls reached the lifecycle", w.fake.calls)
	}
	if ks, _ := w.db.Keys(t.Context(), hutch.DefaultOrg); len(ks) != 1 {
		t.Errorf("%d keys", len(ks))
	}
}

func TestBadCreates(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxTimeout = 48 * time.Hour })
	long := strings.Repeat("x", 5000)
	many := func(n int) string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint("k", i)] = "v"
		}
		b, _ := json.Marshal(m)
		return string(b)
	}
	cases := map[string][]string{
		"template_id": {`1.5`, `-1`, `1e3`, `true`, `{}`, `[]`, `""`, `" "`, `"a\u0000"`, `"a\nb"`, `"` + long + `"`, `99999999999999999999`,
			`"1","template_name":"code-interpreter"`},
		"template_name":   {`1`, `false`, `{}`, `[]`, `""`, `"\t"`, `"` + long + `"`, `"a\u0007"`},
		"region":          {`1`, `true`, `[]`, `{}`, `"` + strings.Repeat("r", 65) + `"`, `"a\u0000"`, `"a\r\nX-Evil: 1"`},
		"timeout_seconds": {`-1`, `1.5`, `60.0`, `6e1`, `"60"`, `true`, `[]`, `{}`, `172801`, `315360001`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775809`, `1e400`},
		"internet_access": {`"true"`, `1`, `0`, `[]`, `{}`, `""`},
		"env_vars": {`1`, `true`, `"A=1"`, `["A=1"]`, `{"A":1}`, `{"A":null}`, `{"A":true}`, `{"A":["x"]}`, `{"A":{"B":"c"}}`, `{"":"x"}`, `{"A=B":"x"}`,
			`{"A\u0000":"x"}`, `{"A":"x\u0000"}`, `{"HUTCH_X":"1"}`, `{"HUTCH_":"1"}`, `{"A":"` + strings.Repeat("x", maxEnvBytes) + `"}`,
			`{"` + strings.Repeat("A", maxEnvBytes+1) + `":""}`},
		"metadata": {`1`, `"a"`, `[]`, `{"a":1}`, `{"a":null}`, `{"a":{"b":"c"}}`, `{"":"x"}`, many(65),
			`{"` + strings.Repeat("k", 129) + `":"x"}`, `{"k":"` + strings.Repeat("v", 1025) + `"}`, `{"a\u0000":"x"}`, `{"a":"\u0000"}`},
		"vcpu":           {`0`, `-1`, `1.5`, `"2"`, `true`, `[]`, `1e1`, `9999999999`, `99999999999999999999`},
		"memory_mb":      {`0`, `-1`, `0.5`, `"2"`, `{}`, `9999999999`},
		"disk_gb":        {`0`, `-1`, `0.5`, `"2"`, `{}`, `9999999999`, `9223372036854775807`},
		"on_timeout":     {`""`, `"gone"`, `"KILL"`, `1`, `true`, `["kill"]`, `{}`},
		"preview_access": {`""`, `"Public"`, `"all"`, `1`, `true`, `{}`},
	}
	for field, values := range cases {
		for _, v := range values {
			body := `{"template_name":"code-interpreter","` + field + `":` + v + `}`
			switch {
			case field == "template_name":
				body = `{"template_name":` + v + `}`
			case field == "template_id" && !strings.Contains(v, "template_name"):
				body = `{"template_id":` + v + `}`
			case field == "template_id":
				body = `{"template_id":` + v + `}`
			}
			out := w.want(400, ask{method: "POST", path: "/v1/sandboxes", body: body})
			d, _ := out.body["details"].(map[string]any)
			if out.body["code"] != "INVALID_REQUEST" || d["field"] != field {
				t.Errorf("%s %s: %s", field, clip(v), out.Body)
			}
			msg, _ := out.body["message"].(string)
			if len(msg) > 300 || !strings.Contains(msg, strings.TrimSuffix(field, "_vars")) {
				t.Errorf("%s %s: message %q", field, clip(v), msg)
			}
		}
	}
	for _, body := range []string{`{}`, `{"template_id":null,"template_name":null}`, `{"Template_ID":"1"}`, `{"template":"1"}`} {
		w.want(400, ask{method: "POST", path: "/v1/sandboxes", body: body})
	}
	for _, key := range []string{"", strings.Repeat("k", 256), "a\tb", "ü", "a\x7f"} {
		r := w.request(ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`})
		r.Header["Idempotency-Key"] = []string{key}
		if out := w.serve(r); out.Code != 400 {
			t.Errorf("Idempotency-Key %q: %d", key, out.Code)
		}
	}
	r := w.request(ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`})
	r.Header["Idempotency-Key"] = []string{"a", "a"}
	if out := w.serve(r); out.Code != 400 {
		t.Errorf("two Idempotency-Keys: %d", out.Code)
	}
	if w.fake.calls != 0 {
		t.Errorf("%d calls reached the lifecycle", w.fake.calls)
	}
}

// No message repeats what may be a secret.
func TestEnvValuesAreNotRepeated(t *testing.T) {
	w := newWorld(t)
	for _, env := range []string{`{"A":"hunter2\u0000"}`, `{"HUTCH_A":"hunter2"}`, `{"A=":"hunter2"}`, `{"A":["hunter2"]}`, `"hunter2"`, `hunter2`} {
		out := w.want(400, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1,"env_vars":` + env + `}`})
		if strings.Contains(out.Body.String(), "hunter2") {
			t.Errorf("%s: %s", env, out.Body)
		}
	}
	if strings.Contains(w.log.String(), "hunter2") {
		t.Error("the log has it")
	}
}

func TestGoodCreates(t *testing.T) {
	w := newWorld(t)
	const tmpl = `"template_name":"code-interpreter"`
	for _, c := range []struct {
		body  string
		check func() bool
	}{
		{`{` + tmpl + `}`, func() bool {
			q := w.fake.asked
			return q.Template == "code-interpreter" && q.Internet && !q.Private && q.Timeout == 0 && q.OnTimeout == hutch.Gone &&
				q.Env != nil && len(q.Env) == 0 && q.Resources == hutch.Resources{} && q.Org == hutch.DefaultOrg && len(q.BodyHash) == 32
		}},
		{`{"template_id":"1"}`, func() bool { return w.fake.asked.Template == "1" }},
		{`{"template_id":1}`, func() bool { return w.fake.asked.Template == "1" }},
		{`{"template_id":"code-interpreter"}`, func() bool { return w.fake.asked.Template == "code-interpreter" }},
		{`{"template_name":"1"}`, func() bool { return w.fake.asked.Template == "1" }},
		{`{"template_id":null,"template_name":"1"}`, func() bool { return w.fake.asked.Template == "1" }},
		{`{` + tmpl + `,"region":null,"timeout_seconds":null,"internet_access":null,"env_vars":null,"metadata":null,"vcpu":null,
			"memory_mb":null,"disk_gb":null,"on_timeout":null,"preview_access":null}`, func() bool { return w.fake.asked.Internet }},
		{`{` + tmpl + `,"live_mode":true,"auto_pause":{"deep":[1,2,3]},"vCPU":"x","TIMEOUT_SECONDS":"x","":0}`, func() bool { return true }},
		{`{` + tmpl + `,"timeout_seconds":0}`, func() bool { return w.fake.asked.Timeout == 0 }},
		{`{` + tmpl + `,"timeout_seconds":-0}`, func() bool { return w.fake.asked.Timeout == 0 }},
		{`{` + tmpl + `,"timeout_seconds":600}`, func() bool { return w.fake.asked.Timeout == 10*time.Minute }},
		{`{` + tmpl + `,"timeout_seconds":315360000}`, func() bool { return w.fake.asked.Timeout == maxTimeout }},
		{`{` + tmpl + `,"timeout_seconds":"x","timeout_seconds":5}`, func() bool { return w.fake.asked.Timeout == 5*time.Second }},
		{`{` + tmpl + `,"env_vars":{"A":"1"},"env_vars":{"B":"2","B":"3"}}`, func() bool { return maps.Equal(w.fake.asked.Env, map[string]string{"B": "3"}) }},
		{`{` + tmpl + `,"env_vars":{"A b":"","ü":"\ud83d\ude00\n","hutch_x":"=","PATH":"/x"}}`, func() bool {
			return maps.Equal(w.fake.asked.Env, map[string]string{"A b": "", "ü": "😀\n", "hutch_x": "=", "PATH": "/x"})
		}},
		{`{` + tmpl + `,"env_vars":{"A":"` + strings.Repeat("x", maxEnvBytes-1) + `"}}`, func() bool { return len(w.fake.asked.Env["A"]) == maxEnvBytes-1 }},
		{`{` + tmpl + `,"metadata":{"team":"a/b","empty":"","line":"1\n2"}}`, func() bool { return w.fake.asked.Metadata["line"] == "1\n2" }},
		{`{` + tmpl + `,"internet_access":false,"preview_access":"private","on_timeout":"pause"}`, func() bool {
			return !w.fake.asked.Internet && w.fake.asked.Private && w.fake.asked.OnTimeout == hutch.Paused
		}},
		{`{` + tmpl + `,"on_timeout":"stop","preview_access":"public"}`, func() bool { return w.fake.asked.OnTimeout == hutch.Stopped && !w.fake.asked.Private }},
		{`{` + tmpl + `,"vcpu":4,"memory_mb":4096,"disk_gb":20}`, func() bool {
			return w.fake.asked.Resources == hutch.Resources{VCPU: 4, MemoryMB: 4096, DiskMB: 20480}
		}},
		{`{` + tmpl + `,"region":"us-west-2"}`, func() bool { return w.fake.asked.Region == "us-west-2" }},
		{" \r\n\t{" + tmpl + "} \n", func() bool { return true }},
	} {
		out := w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: c.body})
		if !c.check() {
			t.Errorf("%s: asked %+v", clip(c.body), w.fake.asked)
		}
		if out.body["id"] != out.body["sandbox_id"] || out.body["status"] != "running" {
			t.Errorf("%s: %s", clip(c.body), out.Body)
		}
	}
}

func TestServerDefaults(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxTimeout, c.PrivatePreviews = time.Hour, true })
	for body, want := range map[string]time.Duration{
		`{"template_id":1}`:                        time.Hour, // none comes to the longest
		`{"template_id":1,"timeout_seconds":0}`:    time.Hour,
		`{"template_id":1,"timeout_seconds":3600}`: time.Hour,
		`{"template_id":1,"timeout_seconds":10}`:   10 * time.Second,
	} {
		w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: body})
		if w.fake.asked.Timeout != want || !w.fake.asked.Private {
			t.Errorf("%s: %v, private %v", body, w.fake.asked.Timeout, w.fake.asked.Private)
		}
	}
	out := w.want(400, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1,"timeout_seconds":3601}`})
	if !strings.Contains(out.body["message"].(string), "3600") {
		t.Errorf("%s", out.Body)
	}
	w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1,"preview_access":"public"}`})
	if w.fake.asked.Private {
		t.Error("private against its owner's word")
	}
}

// The same request in another spelling is the same request.
func TestBodyHash(t *testing.T) {
	hash := func(body string) string {
		t.Helper()
		req, err := decodeCreate(http.Header{}, []byte(body), Config{})
		if err != nil {
			t.Fatal(err)
		}
		return string(req.BodyHash)
	}
	one := hash(`{"template_id":"1","env_vars":{"A":"x","B":"y"},"timeout_seconds":5}`)
	for _, same := range []string{
		` {"timeout_seconds": 5, "env_vars": {"B":"y", "A":"\u0078"}, "template_id":"1"} `,
		`{"template_id":"2","template_id":"1","env_vars":{"A":"x","B":"y"},"timeout_seconds":5}`,
		`{"\u0074emplate_id":"1","env_vars":{"A":"q","A":"x","B":"y"},"timeout_seconds":5}`,
	} {
		if hash(same) != one {
			t.Errorf("%s differs", same)
		}
	}
	for _, other := range []string{
		`{"template_id":"2","env_vars":{"A":"x","B":"y"},"timeout_seconds":5}`,
		`{"template_id":"1","env_vars":{"A":"x","B":"z"},"timeout_seconds":5}`,
		`{"template_id":"1","env_vars":{"A":"x","B":"y"},"timeout_seconds":6}`,
		`{"template_id":1,"env_vars":{"A":"x","B":"y"},"timeout_seconds":5}`,
		`{"template_id":"1","env_vars":{"A":"x","B":"y"},"timeout_seconds":5,"x":1}`,
	} {
		if hash(other) == one {
			t.Errorf("%s is the same", other)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	w := newWorld(t)
	h := map[string]string{"Idempotency-Key": "order 7!"}
	a := ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`, header: h}
	first := w.want(201, a)
	a.body = ` {"template_id" : 1}`
	if again := w.want(201, a); again.body["id"] != first.body["id"] || again.body["auth_token"] == "" {
		t.Errorf("%s", again.Body)
	}
	a.body = `{"template_id":1,"timeout_seconds":9}`
	w.want(409, a)
	if w.fake.creates != 1 {
		t.Errorf("%d creates", w.fake.creates)
	}
}
