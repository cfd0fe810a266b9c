package conformance

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch/test/e2e/caller"
)

// create is the body of a create with more fields.
func create(fields string) string { return `{"template_name":"base",` + fields + `}` }

func text(n int) string { return strings.Repeat("x", n) }

// TestCreateInput sends what a create must refuse, field by field. Afterwards
// there is not one sandbox more, of any status, and nothing more on the machine.
func TestCreateInput(t *testing.T) {
	who := target(t)
	before := all(t, who)
	invalid := []string{"INVALID_REQUEST", "INVALID_JSON"}
	cases := []struct {
		name, body string
		status     int
		headers    []string
	}{
		{"no body", "", 400, nil},
		{"spaces", "  \n", 400, nil},
		{"not JSON", "template_name=base", 400, nil},
		{"cut off", `{"template_name":"base"`, 400, nil},
		{"two documents", `{"template_name":"base"}{}`, 400, nil},
		{"an array", `[{"template_name":"base"}]`, 400, nil},
		{"a string", `"base"`, 400, nil},
		{"null", `null`, 400, nil},
		{"not UTF-8", "{\"template_name\":\"base\",\"region\":\"\xff\xfe\"}", 400, nil},
		{"half a surrogate", create(`"region":"\ud800"`), 400, nil},
		{"nested without end", create(`"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)), 400, nil},
		{"two mebibytes", create(`"x":"` + text(2<<20) + `"`), 413, nil},

		{"no template", `{}`, 400, nil},
		{"template null", `{"template_name":null}`, 400, nil},
		{"template empty", `{"template_name":""}`, 400, nil},
		{"template a number", `{"template_name":7}`, 400, nil},
		{"template a list", `{"template_name":["base"]}`, 400, nil},
		{"template unknown", `{"template_name":"no-such"}`, 404, nil},
		{"template very long", `{"template_name":"` + text(5000) + `"}`, 400, nil},
		{"template a path", `{"template_name":"../../etc/passwd"}`, 404, nil},
		{"template with a NUL", `{"template_name":"base\u0000"}`, 400, nil},
		{"template_id unknown", `{"template_id":"999999999"}`, 404, nil},
		{"template_id unknown number", `{"template_id":999999999}`, 404, nil},
		{"template_id a fraction", `{"template_id":1.5}`, 400, nil},
		{"template_id negative", `{"template_id":-1}`, 400, nil},
		{"template_id a boolean", `{"template_id":true}`, 400, nil},
		{"template_id an object", `{"template_id":{"value":"1"}}`, 400, nil},
		{"template_id enormous", `{"template_id":` + strings.Repeat("9", 400) + `}`, 400, nil},

		{"region a number", create(`"region":1`), 400, nil},
		{"region very long", create(`"region":"` + text(5000) + `"`), 400, nil},
		{"region with a newline", create(`"region":"a\nb"`), 400, nil},

		{"timeout negative", create(`"timeout_seconds":-1`), 400, nil},
		{"timeout a fraction", create(`"timeout_seconds":1.5`), 400, nil},
		{"timeout a string", create(`"timeout_seconds":"60"`), 400, nil},
		{"timeout a boolean", create(`"timeout_seconds":true`), 400, nil},
		{"timeout beyond all time", create(`"timeout_seconds":9223372036854775808`), 400, nil},
		{"timeout overflowing a duration", create(`"timeout_seconds":9300000000`), 400, nil},
		{"on_timeout unknown", create(`"on_timeout":"explode"`), 400, nil},
		{"on_timeout a number", create(`"on_timeout":1`), 400, nil},

		{"internet a string", create(`"internet_access":"false"`), 400, nil},
		{"internet a number", create(`"internet_access":0`), 400, nil},
		{"preview unknown", create(`"preview_access":"maybe"`), 400, nil},

		{"env a list", create(`"env_vars":["A=1"]`), 400, nil},
		{"env a string", create(`"env_vars":"A=1"`), 400, nil},
		{"env value a number", create(`"env_vars":{"A":1}`), 400, nil},
		{"env value null", create(`"env_vars":{"A":null}`), 400, nil},
		{"env value an object", create(`"env_vars":{"A":{}}`), 400, nil},
		{"env name empty", create(`"env_vars":{"":"x"}`), 400, nil},
		{"env name with =", create(`"env_vars":{"A=B":"x"}`), 400, nil},
		{"env name with a NUL", create(`"env_vars":{"A\u0000":"x"}`), 400, nil},
		{"env value with a NUL", create(`"env_vars":{"A":"x\u0000"}`), 400, nil},
		{"env too large", create(`"env_vars":{"A":"` + text(300_000) + `"}`), 400, nil},

		{"metadata nested", create(`"metadata":{"a":{"b":"c"}}`), 400, nil},
		{"metadata a list", create(`"metadata":["a"]`), 400, nil},
		{"metadata value a number", create(`"metadata":{"a":1}`), 400, nil},
		{"metadata key very long", create(`"metadata":{"` + text(5000) + `":"x"}`), 400, nil},
		{"metadata value very long", create(`"metadata":{"a":"` + text(100_000) + `"}`), 400, nil},
		{"metadata too many", create(`"metadata":{` + many(5000) + `}`), 400, nil},

		{"vcpu zero", create(`"vcpu":0`), 400, nil},
		{"vcpu negative", create(`"vcpu":-1`), 400, nil},
		{"vcpu a fraction", create(`"vcpu":0.5`), 400, nil},
		{"vcpu a string", create(`"vcpu":"2"`), 400, nil},
		{"vcpu beyond the template", create(`"vcpu":100000`), 400, nil},
		{"memory zero", create(`"memory_mb":0`), 400, nil},
		{"memory beyond the template", create(`"memory_mb":1048576`), 400, nil},
		{"memory overflowing", create(`"memory_mb":9223372036854775807`), 400, nil},
		{"disk negative", create(`"disk_gb":-5`), 400, nil},
		{"disk beyond the template", create(`"disk_gb":1048576`), 400, nil},

		{"idempotency key empty", create(`"region":"r"`), 400, []string{"Idempotency-Key", " "}},
		{"idempotency key very long", create(`"region":"r"`), 400, []string{"Idempotency-Key", text(5000)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := must[caller.Answer](t)(who.Do(t.Context(), http.MethodPost, "/v1/sandboxes", c.body, c.headers...))
			codes := invalid
			switch c.status {
			case 404:
				codes = []string{"RESOURCE_NOT_FOUND", "TEMPLATE_NOT_FOUND"}
			case 413:
				codes = []string{"REQUEST_TOO_LARGE"}
			}
			envelope(t, a, c.status, codes...)
			if c.status == 404 && strings.Contains(strings.ToLower(a.Text("message")), "sandbox") {
				t.Errorf("a JavaScript client takes %q for an expired sandbox", a.Text("message"))
			}
			if strings.Contains(string(a.Body), text(1000)) {
				t.Error("the answer repeats the whole input")
			}
		})
	}
	after := all(t, who)
	for _, id := range after {
		if !slices.Contains(before, id) {
			t.Errorf("a refused create made %s", id)
		}
	}
	if os.Getenv("HUTCH_URL") == "" {
		m := machine(t)
		if n := snapshot(t, m).Mentions("runsc-sandbox"); len(n) != 0 && len(after) == 0 {
			t.Errorf("sandboxes on the machine that nobody lists: %v", n)
		}
	}
}

// all lists every sandbox, ended ones included.
func all(t *testing.T, who caller.Caller) []string {
	t.Helper()
	return append(must[[]string](t)(who.List(t.Context(), "")), must[[]string](t)(who.List(t.Context(), "status=killed"))...)
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `%q:"x",`, fmt.Sprint("k", i))
	}
	return strings.TrimSuffix(b.String(), ",")
}

// TestCreateAccepts sends what a create must not refuse.
func TestCreateAccepts(t *testing.T) {
	who := target(t)
	id := must[caller.Answer](t)(who.Do(t.Context(), http.MethodGet, "/v1/templates/base", nil)).Text("id")
	cases := map[string]struct {
		body string
		want map[string]any // path -> value in the answer
	}{
		"name":               {`{"template_name":"base"}`, map[string]any{"template_name": "base", "status": "running", "timeout_seconds": nil, "expires_at": nil}},
		"id as a string":     {`{"template_id":"` + id + `"}`, map[string]any{"template_name": "base"}},
		"id as a number":     {`{"template_id":` + id + `}`, map[string]any{"template_name": "base"}},
		"name as the id":     {`{"template_id":"base"}`, map[string]any{"template_name": "base"}},
		"id as the name":     {`{"template_name":"` + id + `"}`, map[string]any{"template_name": "base"}},
		"unknown region":     {create(`"region":"the-moon"`), map[string]any{"region": "the-moon"}},
		"timeout zero":       {create(`"timeout_seconds":0`), map[string]any{"timeout_seconds": nil, "expires_at": nil}},
		"timeout null":       {create(`"timeout_seconds":null`), map[string]any{"timeout_seconds": nil}},
		"timeout long":       {create(`"timeout_seconds":30000`), map[string]any{"timeout_seconds": 30000.0}},
		"empty environment":  {create(`"env_vars":{}`), nil},
		"unknown fields":     {create(`"live_mode":true,"auto_pause":{"a":[1]}`), nil},
		"no internet":        {create(`"internet_access":false`), map[string]any{"internet_access": false}},
		"metadata":           {create(`"metadata":{"a":"b"}`), map[string]any{"metadata.a": "b"}},
		"a smallest machine": {create(`"vcpu":1,"memory_mb":512,"disk_gb":1`), map[string]any{"resources.vcpu": 1.0, "resources.memory_mb": 512.0, "resources.disk_mb": 1024.0}},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			c := cases[name]
			a := must[caller.Answer](t)(who.Do(t.Context(), http.MethodPost, "/v1/sandboxes", c.body))
			if a.Status != http.StatusCreated {
				t.Fatal(a)
			}
			ends(t, &caller.Sandbox{Caller: who, ID: a.Text("id")})
			got := must[caller.Answer](t)(who.Do(t.Context(), http.MethodGet, "/v1/sandboxes/"+a.Text("id"), nil))
			for path, want := range c.want {
				for which, answer := range map[string]caller.Answer{"create": a, "get": got} {
					if is := answer.Field(path); is != want {
						t.Errorf("%s: %s is %v, want %v", which, path, is, want)
					}
				}
			}
			if !strings.HasPrefix(a.Text("auth_token"), "eyJ") || a.Text("token_expires_at") == "" {
				t.Errorf("no token: %s", a)
			}
			if got.Field("auth_token") != nil {
				t.Error("get shows a token")
			}
		})
	}
}

func TestTimeoutInput(t *testing.T) {
	who := target(t)
	sb := made(t, who, map[string]any{"timeout_seconds": 5000})
	put := func(id, body string) caller.Answer {
		return must[caller.Answer](t)(who.Do(t.Context(), http.MethodPut, "/v1/sandboxes/"+id+"/timeout", body))
	}
	before := must[caller.Answer](t)(sb.Get(t.Context()))
	for name, body := range map[string]string{
		"no body": "", "not JSON": "60", "a list": "[60]", "null body": "null", "cut off": `{"timeout_seconds":60`,
		"negative": `{"timeout_seconds":-1}`, "a fraction": `{"timeout_seconds":0.5}`, "a string": `{"timeout_seconds":"60"}`,
		"a boolean": `{"timeout_seconds":true}`, "an object": `{"timeout_seconds":{}}`, "beyond int64": `{"timeout_seconds":99999999999999999999}`,
		"overflowing a duration": `{"timeout_seconds":9300000000}`, "an exponent": `{"timeout_seconds":1e400}`,
	} {
		t.Run(name, func(t *testing.T) {
			envelope(t, put(sb.ID, body), http.StatusBadRequest, "INVALID_REQUEST", "INVALID_JSON")
		})
	}
	t.Run("too large", func(t *testing.T) {
		envelope(t, put(sb.ID, `{"timeout_seconds":60,"x":"`+text(2<<20)+`"}`), http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE")
	})
	t.Run("unknown", func(t *testing.T) {
		envelope(t, put(nobody, `{"timeout_seconds":60}`), http.StatusNotFound, "RESOURCE_NOT_FOUND")
	})
	after := must[caller.Answer](t)(sb.Get(t.Context()))
	if before.Text("expires_at") != after.Text("expires_at") || after.Text("expires_at") == "" {
		t.Errorf("refused changes moved the deadline from %q to %q", before.Text("expires_at"), after.Text("expires_at"))
	}
	t.Run("accepted", func(t *testing.T) {
		a := put(sb.ID, `{"timeout_seconds":120}`)
		if a.Status != http.StatusOK || a.Field("timeout_seconds") != 120.0 || a.Text("expires_at") == "" {
			t.Error(a)
		}
		a = put(sb.ID, `{"timeout_seconds":0}`)
		if a.Status != http.StatusOK || a.Field("timeout_seconds") != nil || a.Field("expires_at") != nil {
			t.Error(a)
		}
	})
	t.Run("killed", func(t *testing.T) {
		must[caller.Answer](t)(sb.Kill(t.Context()))
		envelope(t, put(sb.ID, `{"timeout_seconds":60}`), http.StatusNotFound, "RESOURCE_NOT_FOUND")
	})
}

func TestListInput(t *testing.T) {
	who := target(t)
	list := func(query string) caller.Answer {
		return must[caller.Answer](t)(who.Do(t.Context(), http.MethodGet, "/v1/sandboxes?"+query, nil))
	}
	for _, query := range []string{
		"limit=0", "limit=-1", "limit=1001", "limit=ten", "limit=1.5", "limit=99999999999999999999", "limit=1&limit=2", "limit=%00",
		"cursor=garbage", "cursor=" + text(5000), "cursor=eyJhIjoxfQ", "cursor=%ff",
		"status=dancing", "status=" + text(5000), "region=" + text(5000), "template=" + text(5000),
		"metadata.=x", "metadata." + text(5000) + "=x", "metadata.a=" + text(100_000), "limit=%zz",
	} {
		name := query
		if len(name) > 40 {
			name = name[:40] + "…"
		}
		t.Run(name, func(t *testing.T) {
			a := list(query)
			if len(query) > 60_000 && a.Status == http.StatusRequestHeaderFieldsTooLarge {
				return
			}
			envelope(t, a, http.StatusBadRequest, "INVALID_REQUEST")
		})
	}

	a := made(t, who, map[string]any{"metadata": map[string]string{"walk": t.Name(), "n": "1"}, "region": "list-a"})
	b := made(t, who, map[string]any{"metadata": map[string]string{"walk": t.Name(), "n": "2"}, "region": "list-b"})
	for query, want := range map[string][]string{
		"metadata.walk=" + t.Name():                   {b.ID, a.ID},
		"metadata.walk=" + t.Name() + "&metadata.n=1": {a.ID},
		"metadata.n=3":                                nil,
		"region=list-b":                               {b.ID},
		"region=list-b&template=base&status=running":  {b.ID},
		"region=list-b&status=paused":                 nil,
	} {
		t.Run("found by "+query, func(t *testing.T) {
			ids := must[[]string](t)(who.List(t.Context(), query))
			if !slices.Equal(ids, want) {
				t.Errorf("%v, want %v", ids, want)
			}
		})
	}
	t.Run("a cursor is of its own query's pages", func(t *testing.T) {
		first := list("metadata.walk=" + t.Name() + "&limit=1")
		if first.Field("has_more") == true && first.Text("next_cursor") == "" {
			t.Error("more, but no way to it")
		}
	})
}
