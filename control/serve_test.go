package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
)

func TestPaths(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/v1/sandboxes", 200},
		{"GET", "//v1/sandboxes", 200},
		{"GET", "///v1//sandboxes///", 200},
		{"GET", "/v1/sandboxes/", 200},
		{"GET", "/v1/sandboxes/?limit=1", 200},
		{"GET", "//v1/sandboxes/" + id + "/", 200},
		{"POST", "//v1/sandboxes/" + id + "/pause/", 200},
		{"POST", "//v1//sandboxes/" + id + "/resume", 200},
		{"GET", "/health/", 200},
		{"GET", "//v1/templates//code-interpreter", 200},
		{"GET", "/v1/templates/code%2Dinterpreter", 200},
		{"GET", "/v1/templates/a%2Fb", 404},
		{"GET", "/v1/templates/%2e%2e", 404},
		{"GET", "/v1/templates/..", 404},
		{"GET", "/v1/templates/../sandboxes", 404},
		{"GET", "/v1/./sandboxes", 404},
		{"GET", "/v1/templates/%00", 404},
		{"GET", "/v1/templates/" + strings.Repeat("x", 5000), 404},
		{"GET", "/", 404},
		{"GET", "//", 404},
		{"GET", "/v1", 404},
		{"GET", "/V1/sandboxes", 404},
		{"GET", "/v1/sandboxes/" + id + "/nothing", 404},
		{"GET", "/v1/sandboxes%2F" + id, 404},
		{"BREW", "/coffee", 404},
	} {
		out := w.want(c.want, ask{method: c.method, path: c.path})
		if c.want == 404 && out.body["code"] != "RESOURCE_NOT_FOUND" {
			t.Errorf("%s: %s", c.path, out.Body)
		}
	}
}

// Paths and ids that cannot be do not reach the store of sandboxes.
func TestInvalidIDs(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"x", "..", "%2e%2e%2fetc", "s" + strings.Repeat("a", 19), "s" + strings.Repeat("A", 20),
		"1763382095i648uu1o", strings.Repeat("s", 9000), "%00", "s'%20OR%201=1--", "%F0%9F%92%A3"} {
		for _, rt := range routes {
			if !strings.Contains(rt.pattern, "{id}") {
				continue
			}
			out := w.want(404, ask{method: rt.method, path: fill(rt.pattern, map[string]string{"id": id}), body: `{"timeout_seconds":1}`})
			if id != ".." && out.body["message"] != "Sandbox not found" { // ".." is not even a path
				t.Errorf("%s %s: %s", rt.method, id, out.Body)
			}
		}
	}
	if w.fake.calls != 0 {
		t.Errorf("%d calls reached the lifecycle", w.fake.calls)
	}
}

func TestMethods(t *testing.T) {
	w := newWorld(t)
	patterns := map[string][]string{}
	for _, rt := range routes {
		patterns[rt.pattern] = append(patterns[rt.pattern], rt.method)
	}
	for pattern, ms := range patterns {
		for _, m := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get"} {
			if slices.Contains(ms, m) {
				continue
			}
			out := w.want(405, ask{method: m, path: fill(pattern, w.some(nil))})
			got := strings.Split(out.Header().Get("Allow"), ", ")
			for _, have := range ms {
				if !slices.Contains(got, have) {
					t.Errorf("%s: Allow %q lacks %s", pattern, got, have)
				}
			}
			if slices.Contains(ms, "GET") != slices.Contains(got, "HEAD") || out.body["code"] != "METHOD_NOT_ALLOWED" {
				t.Errorf("%s: Allow %q, %s", pattern, got, out.Body)
			}
		}
	}
}

func TestHead(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	srv := httptest.NewServer(w.srv)
	defer srv.Close()
	for path, want := range map[string]int{"/health": 200, "/v1/sandboxes": 200, "/v1/sandboxes/" + id: 200, "/v1/sandboxes/x": 404, "/docs": 200, "/no": 404} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodHead, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", w.key)
		out, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(out.Body)
		out.Body.Close()
		if err != nil || out.StatusCode != want || len(b) != 0 || out.ContentLength <= 0 {
			t.Errorf("HEAD %s: %d, %d bytes, length %d, %v", path, out.StatusCode, len(b), out.ContentLength, err)
		}
	}
}

func TestContentTypeIsNotInsistedOn(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	for _, ct := range []string{"", "application/json", "text/plain", "application/x-www-form-urlencoded", "rubbish;;"} {
		h := map[string]string{"Content-Type": ct}
		w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`, header: h})
		w.want(200, ask{method: "POST", path: "/v1/sandboxes/" + id + "/pause", header: h})
		w.want(200, ask{method: "POST", path: "/v1/sandboxes/" + id + "/resume", body: "{", header: h})
	}
}

func TestServes(t *testing.T) {
	w := newWorld(t)
	for path, want := range map[string]bool{
		"/health": true, "//v1/sandboxes/": true, "/v1/sandboxes/x/kill": true, "/docs/x": true,
		"/": false, "/execute": false, "/v1/../health": false, "/sandboxes/x/ports/80/": false,
	} {
		for _, m := range []string{"GET", "BREW"} {
			if got := w.srv.Serves(httptest.NewRequest(m, "http://h"+path, nil)); got != want {
				t.Errorf("%s %s: %v", m, path, got)
			}
		}
	}
}

func TestAllowedHosts(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AllowedHosts = []string{"127.0.0.1", "::1", "Example.com", "*.box.example.com"} })
	for host, want := range map[string]int{
		"127.0.0.1:8080": 200, "[::1]:8080": 200, "example.com": 200, "EXAMPLE.COM.:80": 200, "a.box.example.com": 200,
		"evil.com": 403, "example.com.evil.com": 403, "box.example.com": 403, "127.0.0.1.nip.io": 403, "": 403, "xbox.example.com": 403,
	} {
		r := httptest.NewRequest(http.MethodGet, "/health", nil)
		r.Host = host
		out := httptest.NewRecorder()
		w.srv.ServeHTTP(out, r)
		if out.Code != want || !json.Valid(out.Body.Bytes()) {
			t.Errorf("%q: %d %s", host, out.Code, out.Body)
		}
	}
}

// A panic is a 500 in JSON, its cause is only in the log, and the connection
// lives on.
func TestPanic(t *testing.T) {
	w := newWorld(t)
	w.fake.inside = func(method string) {
		if method == "List" {
			panic("secret thing")
		}
	}
	srv := httptest.NewServer(w.srv)
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, c := range []struct {
		path string
		want int
	}{{"/v1/sandboxes", 500}, {"/health", 200}} {
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\nX-API-Key: %s\r\n\r\n", c.path, w.key)
		out, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(out.Body)
		if out.StatusCode != c.want || strings.Contains(string(b), "secret") || !json.Valid(b) {
			t.Errorf("%s: %d %s", c.path, out.StatusCode, b)
		}
	}
	if !strings.Contains(w.log.String(), "secret thing") || !strings.Contains(w.log.String(), "fake_test.go") {
		t.Error("the log has no cause or no stack")
	}
}

func TestAbortHandlerPasses(t *testing.T) {
	w := newWorld(t)
	w.fake.inside = func(string) { panic(http.ErrAbortHandler) }
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
			t.Error("swallowed")
		}
	}()
	w.do(ask{method: "GET", path: "/v1/sandboxes"})
}

func TestBodySize(t *testing.T) {
	w := newWorld(t)
	const begin, end = `{"template_name":"code-interpreter","x":"`, `"}`
	pad := func(n int) string { return begin + strings.Repeat("x", n-len(begin)-len(end)) + end }
	w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: pad(maxBody)})
	for _, rt := range routes {
		if rt.limit == unlimited {
			continue
		}
		out := w.want(413, ask{method: rt.method, path: fill(rt.pattern, w.some(nil)), body: pad(maxBody + 1)})
		if out.body["code"] != "REQUEST_TOO_LARGE" {
			t.Errorf("%s %s: %s", rt.method, rt.pattern, out.Body)
		}
	}
	if w.fake.creates != 1 {
		t.Errorf("%d creates", w.fake.creates)
	}
}

// A body that does not come costs its sender the connection and nobody else
// anything.
func TestSlowBody(t *testing.T) {
	w := newWorld(t)
	w.srv.bodyTime = 50 * time.Millisecond
	srv := httptest.NewServer(w.srv)
	defer srv.Close()
	for _, c := range []struct {
		name, key string
		want      int
	}{{"with a key", w.key, 408}, {"without", "", 401}} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/sandboxes HTTP/1.1\r\nHost: h\r\nX-API-Key: %s\r\nContent-Length: 100\r\n\r\n{", c.key)
		out, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if out.StatusCode != c.want {
			t.Errorf("%s: %d", c.name, out.StatusCode)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil { // until the server has closed it
			t.Log(c.name, err)
		}
		conn.Close()
	}
	if w.fake.creates != 0 {
		t.Error("something was made")
	}
}

// The bound on the body must not end a create that takes longer.
func TestLongRequestAfterBody(t *testing.T) {
	w := newWorld(t)
	w.srv.bodyTime, w.srv.answerTime = 20*time.Millisecond, 20*time.Millisecond
	w.fake.inside = func(method string) {
		if method == "Create" {
			<-time.After(100 * time.Millisecond) // longer than both bounds
		}
	}
	srv := httptest.NewServer(w.srv)
	defer srv.Close()
	for range 2 { // on one connection: no bound is left behind
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/v1/sandboxes", strings.NewReader(`{"template_id":"1"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", w.key)
		out, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(out.Body)
		out.Body.Close()
		if out.StatusCode != http.StatusCreated || err != nil {
			t.Fatalf("%d %v %s", out.StatusCode, err, b)
		}
	}
	if w.fake.alive() != 2 {
		t.Errorf("%d alive", w.fake.alive())
	}
}

func TestHTTPServer(t *testing.T) {
	s := NewHTTPServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	if s.IdleTimeout < 120*time.Second || s.ReadHeaderTimeout != 10*time.Second || s.ReadTimeout != 0 || s.WriteTimeout != 0 {
		t.Errorf("%+v", s)
	}
}

func TestConfig(t *testing.T) {
	good := Address{URL: "http://127.0.0.1:8080"}
	for name, c := range map[string]Config{
		"no address":         {},
		"a path":             {Address: Address{URL: "http://h/x"}},
		"no scheme":          {Address: Address{URL: "127.0.0.1:8080"}},
		"another scheme":     {Address: Address{URL: "ftp://h"}},
		"a user":             {Address: Address{URL: "http://u:p@h"}},
		"a query":            {Address: Address{URL: "http://h?x"}},
		"a bad region":       {Address: Address{URL: "http://h", Region: "a.b"}},
		"a bad domain":       {Address: Address{Domain: "a..b"}},
		"a domain and slash": {Address: Address{Domain: "a/b"}},
		"a bad port":         {Address: Address{Domain: "d", Port: 70000}},
		"a bad scheme":       {Address: Address{Domain: "d", Scheme: "gopher"}},
		"negative limit":     {Address: good, CreatesPerMinute: -1},
		"negative timeout":   {Address: good, MaxTimeout: -time.Second},
		"odd timeout":        {Address: good, MaxTimeout: 1500 * time.Millisecond},
	} {
		if _, err := New(c, nil, nil); hutch.KindOf(err) != hutch.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Config{Address: good}, nil, nil); err != nil {
		t.Error(err)
	}
}

func TestAddress(t *testing.T) {
	const id = "saaaaaaaaaaaaaaaaaaaa"
	for _, c := range []struct {
		a             Address
		host, preview string
	}{
		{Address{URL: "http://127.0.0.1:8080/"}, "http://127.0.0.1:8080", "http://127.0.0.1:8080/sandboxes/" + id + "/ports/{port}/"},
		{Address{URL: "https://Box.example.com"}, "https://Box.example.com", "https://Box.example.com/sandboxes/" + id + "/ports/{port}/"},
		{Address{Domain: "Vms.Example.com."}, "https://7777-" + id + ".local.vms.example.com", "https://{port}-" + id + ".local.vms.example.com/"},
		{Address{Domain: "d.io", Region: "eu-1", Port: 8443}, "https://7777-" + id + ".eu-1.d.io:8443", "https://{port}-" + id + ".eu-1.d.io:8443/"},
		{Address{Domain: "d.io", Scheme: "http", Port: 80}, "http://7777-" + id + ".local.d.io", "http://{port}-" + id + ".local.d.io/"},
		{
			Address{Domain: "d.io", Port: 8443, HopXSuffix: true}, "https://7777-" + id + ".local.d.io:8443/p.vms.hopx.dev",
			"https://{port}-" + id + ".local.d.io:8443/p.vms.hopx.dev/",
		},
	} {
		a, err := c.a.normal()
		if err != nil {
			t.Errorf("%+v: %v", c.a, err)
			continue
		}
		if a.host(id) != c.host || a.preview(id) != c.preview {
			t.Errorf("%+v: %s, %s", c.a, a.host(id), a.preview(id))
		}
	}
}
