package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
)

// What clients read of a created sandbox, to the letter.
func TestCreatedSandbox(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Address = Address{Domain: "vms.example.com", Region: "eu-1"} })
	out := w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_name":"code-interpreter","timeout_seconds":600,
		"region":"us-east","internet_access":false,"metadata":{"a":"b"},"vcpu":1,"memory_mb":1024,"disk_gb":5,"on_timeout":"pause","preview_access":"private"}`})
	id := out.body["id"].(string)
	tok := out.body["auth_token"].(string)
	var timing map[string]any
	timing, out.body["timing"] = out.body["timing"].(map[string]any), nil
	want := map[string]any{
		"id": id, "sandbox_id": id, "object": "sandbox", "status": "running",
		"public_host": "https://7777-" + id + ".eu-1.vms.example.com", "direct_url": nil, "preview_url": nil,
		"organization_id": 1.0, "node_id": "host-1", "region": "us-east", "template_id": "1", "template_name": "code-interpreter",
		"resources":       map[string]any{"vcpu": 1.0, "memory_mb": 1024.0, "disk_mb": 5120.0},
		"internet_access": false, "live_mode": true, "timeout_seconds": 600.0,
		"expires_at": "2026-03-01T12:10:00.123Z", "created_at": "2026-03-01T12:00:00.123Z", "started_at": "2026-03-01T12:00:00.123Z", "end_at": nil,
		"metadata": map[string]any{"a": "b"}, "on_timeout": "pause", "preview_access": "private",
		"preview_url_template": "https://{port}-" + id + ".eu-1.vms.example.com/",
		"auth_token":           tok, "token_expires_at": "2026-03-02T12:00:00.123Z", "start": "cold", "timing": nil,
		"request_id": out.Header().Get("X-Request-ID"),
	}
	a, _ := json.Marshal(out.body)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
	if !strings.HasPrefix(tok, "eyJ") {
		t.Errorf("token %q", tok)
	}
	steps := timing["steps"].([]any)
	if first := steps[0].(map[string]any); len(steps) != 2 || first["name"] != "rootfs" || first["ms"] != 1.5 || timing["total_ms"].(float64) < 0 {
		t.Errorf("timing %v", timing)
	}

	get := w.want(200, ask{method: "GET", path: "/v1/sandboxes/" + id})
	for k, v := range want {
		switch k {
		case "auth_token", "token_expires_at", "start", "timing":
			if _, there := get.body[k]; there {
				t.Errorf("get shows %s", k)
			}
		case "request_id":
		default:
			x, _ := json.Marshal(get.body[k])
			if y, _ := json.Marshal(v); !bytes.Equal(x, y) {
				t.Errorf("get: %s is %s, not %s", k, x, y)
			}
		}
	}
}

func TestPlainSandbox(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	out := w.want(200, ask{method: "GET", path: "/v1/sandboxes/" + id})
	for k, want := range map[string]any{
		"public_host": "http://127.0.0.1:8080", "preview_url_template": "http://127.0.0.1:8080/sandboxes/" + id + "/ports/{port}/",
		"timeout_seconds": nil, "expires_at": nil, "region": "local", "on_timeout": "kill", "preview_access": "public", "internet_access": true,
	} {
		if out.body[k] != want {
			t.Errorf("%s is %v, not %v", k, out.body[k], want)
		}
	}
	if m, ok := out.body["metadata"].(map[string]any); !ok || len(m) != 0 {
		t.Errorf("metadata is %v", out.body["metadata"])
	}
	for _, secret := range []string{"auth_token", "env_vars", "10.0."} {
		if strings.Contains(out.Body.String(), secret) {
			t.Errorf("shows %s", secret)
		}
	}
}

func TestVerbs(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	for _, c := range []struct {
		method, verb string
		status       int
		says         string
	}{
		{"POST", "/start", 200, "running"}, // it is
		{"POST", "/resume", 200, "running"},
		{"POST", "/pause", 200, "paused"},
		{"POST", "/pause", 200, "paused"},
		{"POST", "/token/refresh", 200, ""},
		{"POST", "/resume", 200, "running"},
		{"POST", "/resume", 200, "running"},
		{"POST", "/stop", 200, "stopped"},
		{"POST", "/pause", 409, ""},
		{"POST", "/stop", 200, "stopped"},
		{"POST", "/start", 200, "running"},
		{"POST", "/kill", 200, "killed"},
		{"GET", "", 404, ""},
		{"POST", "/resume", 404, ""},
		{"POST", "/token/refresh", 404, ""},
	} {
		out := w.want(c.status, ask{method: c.method, path: "/v1/sandboxes/" + id + c.verb})
		if c.says != "" && (out.body["status"] != c.says || out.body["id"] != id || len(out.body) != 3) {
			t.Errorf("%s: %s", c.verb, out.Body)
		}
		if c.status == 404 {
			d := out.body["details"].(map[string]any)
			if out.body["message"] != "Sandbox not found" || d["reason"] != "request" || d["terminated_at"] != "2026-03-01T12:00:00.123Z" {
				t.Errorf("%s: %s", c.verb, out.Body)
			}
		}
		if c.status == 409 && (out.body["code"] != "CONFLICT" || !strings.Contains(out.body["message"].(string), "stopped")) {
			t.Errorf("%s: %s", c.verb, out.Body)
		}
	}
	id = w.create()
	if out := w.want(200, ask{method: "DELETE", path: "/v1/sandboxes/" + id}); out.body["status"] != "deleted" || w.fake.grace >= 0 {
		t.Errorf("%s, grace %v", out.Body, w.fake.grace)
	}
	for q, want := range map[string]time.Duration{"?grace=0": 0, "?grace=5": 5 * time.Second, "?grace=300": 300 * time.Second, "?grace=&x": -time.Second} {
		w.want(200, ask{method: "DELETE", path: "/v1/sandboxes/" + w.create() + q})
		if w.fake.grace != want {
			t.Errorf("%s: %v", q, w.fake.grace)
		}
	}
	id = w.create()
	for _, q := range []string{"-1", "1.5", "301", "x", "1s", "99999999999999999999", "1&grace=2", "%zz", "%00", "1;2"} {
		w.want(400, ask{method: "DELETE", path: "/v1/sandboxes/" + id + "?grace=" + q})
	}
	if w.fake.alive() != 1 {
		t.Errorf("%d alive", w.fake.alive())
	}
}

// A kill that cannot be proven says when to ask again.
func TestKillUnproven(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	w.fake.fail["Kill"] = &hutch.Error{Kind: hutch.Unavailable, Msg: "The order stands", Details: map[string]any{"retry_after_seconds": 1}}
	for _, a := range []ask{{method: "POST", path: "/v1/sandboxes/" + id + "/kill"}, {method: "DELETE", path: "/v1/sandboxes/" + id}} {
		out := w.want(503, a)
		if out.Header().Get("Retry-After") != "1" || out.body["code"] != "SERVICE_UNAVAILABLE" {
			t.Errorf("%v %s", out.Header(), out.Body)
		}
	}
}

func TestTimeout(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	put := func(body string) ask { return ask{method: "PUT", path: "/v1/sandboxes/" + id + "/timeout", body: body} }
	for body, want := range map[string]any{
		`{"timeout_seconds":60}`:                      60.0,
		`{"timeout_seconds":0}`:                       nil,
		`{"timeout_seconds":null}`:                    nil,
		`{"timeout_seconds":315360000,"x":[1]}`:       315360000.0,
		`{"timeout_seconds":"x","timeout_seconds":9}`: 9.0,
	} {
		out := w.want(200, put(body))
		get := w.want(200, ask{method: "GET", path: "/v1/sandboxes/" + id})
		if out.body["timeout_seconds"] != want || get.body["timeout_seconds"] != want || out.body["expires_at"] != get.body["expires_at"] ||
			(out.body["expires_at"] == nil) != (want == nil) || len(out.body) != 4 {
			t.Errorf("%s: %s, then %s", body, out.Body, get.Body)
		}
	}
	w.want(200, put(`{"timeout_seconds":77}`))
	for _, body := range []string{
		`{}`, `{"timeout":1}`, `{"Timeout_Seconds":1}`, `{"timeout_seconds":-1}`, `{"timeout_seconds":1.5}`, `{"timeout_seconds":60.0}`, `{"timeout_seconds":"60"}`,
		`{"timeout_seconds":true}`, `{"timeout_seconds":[]}`, `{"timeout_seconds":{}}`, `{"timeout_seconds":315360001}`, `{"timeout_seconds":1e2}`,
		`{"timeout_seconds":9223372036854775808}`, `{"timeout_seconds":""}`,
	} {
		if out := w.want(400, put(body)); out.body["details"].(map[string]any)["field"] != "timeout_seconds" {
			t.Errorf("%s: %s", body, out.Body)
		}
	}
	if get := w.want(200, ask{method: "GET", path: "/v1/sandboxes/" + id}); get.body["timeout_seconds"] != 77.0 {
		t.Errorf("changed by a bad request: %s", get.Body)
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	a := ask{method: "POST", path: "/v1/sandboxes/" + id + "/token/refresh"}
	one := w.want(200, a)
	w.advance(time.Millisecond)
	two := w.want(200, a)
	if one.body["auth_token"] == two.body["auth_token"] || one.body["token_expires_at"].(string) >= two.body["token_expires_at"].(string) {
		t.Errorf("%s, then %s", one.Body, two.Body)
	}
}

func TestList(t *testing.T) {
	w := newWorld(t)
	empty := w.want(200, ask{method: "GET", path: "/v1/sandboxes"})
	if d, ok := empty.body["data"].([]any); !ok || len(d) != 0 || empty.body["has_more"] != false || empty.body["next_cursor"] != nil || empty.body["object"] != "list" {
		t.Errorf("%s", empty.Body)
	}
	ids := map[string]bool{}
	for range 5 {
		ids[w.create()] = true
	}
	var cursor any
	for pages := 0; ; pages++ {
		path := "/v1/sandboxes?limit=2"
		if cursor != nil {
			path += "&cursor=" + url.QueryEscape(cursor.(string))
		}
		out := w.want(200, ask{method: "GET", path: path})
		for _, sb := range out.body["data"].([]any) {
			sb := sb.(map[string]any)
			if id := sb["id"].(string); !ids[id] {
				t.Errorf("%s twice or never made", id)
			} else {
				delete(ids, id)
			}
			if _, there := sb["request_id"]; there || sb["auth_token"] != nil {
				t.Errorf("item %v", sb)
			}
		}
		cursor = out.body["next_cursor"]
		if out.body["has_more"] != (cursor != nil) {
			t.Fatalf("has_more without cursor: %s", out.Body)
		}
		if cursor == nil {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
	}
	if len(ids) != 0 {
		t.Errorf("not listed: %v", ids)
	}
}

func TestListQueries(t *testing.T) {
	w := newWorld(t)
	f, err := decodeList(7, "status=paused&region=r%20x&template=base&cursor=c%2Fd&limit=1000&metadata.team=a%26b&metadata.=&unknown=1&unknown=2")
	if err == nil {
		t.Errorf("an empty metadata key: %+v", f)
	}
	f, err = decodeList(7, "status=paused&region=r%20x&template=base&cursor=c%2Fd&limit=1000&metadata.team=a%26b&metadata.x=&unknown=1&unknown=2")
	if err != nil || f.Org != 7 || f.Status != "paused" || f.Region != "r x" || f.Template != "base" || f.Cursor != "c/d" || f.Limit != 1000 ||
		len(f.Metadata) != 2 || f.Metadata["team"] != "a&b" {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = decodeList(7, "limit=&status=&cursor="); err != nil || f.Limit != 100 || f.Status != "" {
		t.Errorf("%+v, %v", f, err)
	}
	var many strings.Builder
	for c := 'a'; c <= 'q'; c++ {
		many.WriteString("metadata." + string(c) + "=1&")
	}
	for _, q := range []string{
		"limit=0", "limit=-1", "limit=1001", "limit=x", "limit=1.5", "limit=1e2", "limit=+5", "limit=%205", "limit=99999999999999999999", "limit=1&limit=1",
		"status=dead", "status=RUNNING", "status=running&status=paused", "status=%00",
		"region=" + strings.Repeat("r", 65), "region=%0a", "template=" + strings.Repeat("t", 129), "template=%ff",
		"cursor=" + strings.Repeat("c", 1025), "cursor=%00", "metadata." + strings.Repeat("k", 129) + "=1", "metadata.k=" + strings.Repeat("v", 1025),
		"metadata.%00=1", "metadata.a=1&metadata.a=2", many.String(), "a=%zz", "limit=5;status=x", "%",
	} {
		out := w.want(400, ask{method: "GET", path: "/v1/sandboxes?" + q})
		if out.body["code"] != "INVALID_REQUEST" {
			t.Errorf("%s: %s", q, out.Body)
		}
	}
	if w.fake.calls != 0 {
		t.Errorf("%d calls reached the lifecycle", w.fake.calls)
	}
}

// What is shown of the dead and the failed.
func TestShow(t *testing.T) {
	w := newWorld(t)
	at := w.now()
	dead := w.srv.show(hutch.Sandbox{Want: hutch.Gone, Is: hutch.Gone, Why: hutch.ByOOM, Ended: at, Fault: "x"}, "")
	if dead.Status != "killed" || dead.Reason != "oom" || !dead.EndAt.Equal(at) || dead.NodeID != nil || dead.Fault != "" || dead.OnTimeout != "kill" {
		t.Errorf("%+v", dead)
	}
	failed := w.srv.show(hutch.Sandbox{Want: hutch.Running, Is: hutch.Failed, Why: hutch.ByRequest, Fault: "no space"}, "")
	if failed.Status != "error" || failed.Fault != "no space" || failed.Reason != "" {
		t.Errorf("%+v", failed)
	}
}

// A create that is not answered with success leaves nothing, unless asking
// again would find it.
func TestCreateTakenBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		token  error // of Token
		kill   error // of Kill
		header map[string]string
		want   int
		alive  int
	}{
		{"no token", errors.New("disk"), nil, nil, 500, 0},
		{"no token and no kill", errors.New("disk"), &hutch.Error{Kind: hutch.Unavailable}, nil, 503, 1},
		{"killed meanwhile", &hutch.Error{Kind: hutch.NotFound}, nil, nil, 409, 1}, // the fake keeps it: nobody asked
		{"no token, asked to be remembered", errors.New("disk"), nil, map[string]string{"Idempotency-Key": "k"}, 500, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.fake.fail["Token"], w.fake.fail["Kill"] = c.token, c.kill
			w.want(c.want, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`, header: c.header})
			if w.fake.creates != 1 || w.fake.alive() != c.alive {
				t.Errorf("%d creates, %d alive", w.fake.creates, w.fake.alive())
			}
		})
	}
}

func TestCreateWhoseClientHasGone(t *testing.T) {
	w := newWorld(t)
	ctx, leave := context.WithCancel(t.Context())
	w.fake.inside = func(method string) {
		if method == "Token" { // made, not answered yet
			leave()
		}
	}
	rec := httptest.NewRecorder()
	w.srv.ServeHTTP(rec, w.request(ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`}).WithContext(ctx))
	if w.fake.creates != 1 || w.fake.alive() != 0 || rec.Code == http.StatusCreated {
		t.Errorf("%d, %d creates, %d alive", rec.Code, w.fake.creates, w.fake.alive())
	}
}

func TestCreateErrors(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{&hutch.Error{Kind: hutch.Invalid, Msg: "vcpu must be from 1 to 8"}, 400, "INVALID_REQUEST"},
		{&hutch.Error{Kind: hutch.Exhausted, Code: "SANDBOX_LIMIT_REACHED", Msg: "The limit of sandboxes is reached"}, 403, "SANDBOX_LIMIT_REACHED"},
		{&hutch.Error{Kind: hutch.Unavailable, Msg: "No room"}, 503, "SERVICE_UNAVAILABLE"},
		{&hutch.Error{Kind: hutch.Conflict, Msg: "Template is building"}, 409, "CONFLICT"},
		{&hutch.Error{Kind: hutch.Timeout}, 504, "TIMEOUT"},
		{errors.New("boom"), 500, "INTERNAL_ERROR"},
	} {
		w.fake.fail["Create"] = c.err
		out := w.want(c.status, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`})
		if out.body["code"] != c.code {
			t.Errorf("%v: %s", c.err, out.Body)
		}
	}
	// JavaScript takes "sandbox … not found" for an expired one.
	delete(w.fake.fail, "Create")
	for _, name := range []string{"nope", "my-sandbox", "99"} {
		out := w.want(404, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_name":"` + name + `"}`})
		msg := strings.ToLower(out.body["message"].(string))
		if strings.Contains(msg, "sandbox") || !strings.Contains(msg, "not found") || out.body["details"].(map[string]any)["template"] != name {
			t.Errorf("%s", out.Body)
		}
	}
}

// The Python SDK reads an object where all others read a string.
func TestEnvelopes(t *testing.T) {
	w := newWorld(t)
	for agent, nested := range map[string]bool{"hopx-python/0.1.0": true, "axios/1.7.2": false, "curl/8.5": false, "": false} {
		h := map[string]string{"User-Agent": agent}
		for _, a := range []ask{
			{method: "GET", path: "/v1/sandboxes/nope", header: h},
			{method: "GET", path: "/nope", header: h},
			{method: "POST", path: "/health", header: h},
			{method: "GET", path: "/v1/sandboxes", header: h, key: "-"},
			{method: "POST", path: "/v1/sandboxes", body: "{", header: h},
		} {
			out := w.do(a)
			if _, isObject := out.body["error"].(map[string]any); isObject != nested || out.Code < 400 {
				t.Errorf("%q %s %s: %s", agent, a.method, a.path, out.Body)
			}
		}
	}
}
