package conformance

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
)

// echo is a server of a user's that says what reached it, and can be slow.
const echo = `
import http.server, json, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode("latin1")
        if self.path == "/slow":
            self.send_response(200); self.send_header("transfer-encoding", "chunked"); self.end_headers()
            for _ in range(600):
                self.wfile.write(b"1\r\nx\r\n"); self.wfile.flush(); time.sleep(0.1)
            return
        out = json.dumps({"method": self.command, "path": self.path, "body": body, "headers": {k.lower(): v for k, v in self.headers.items()}}).encode()
        self.send_response(201); self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(out))); self.send_header("set-cookie", "a=b"); self.end_headers(); self.wfile.write(out)
    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), H).serve_forever()
`

// TestPorts reaches what a user listens on: without credentials where it is
// public, with the sandbox's own where it is not, and never past the kill.
func TestPorts(t *testing.T) {
	who := target(t)
	serve := func(t *testing.T, fields map[string]any) (*caller.Sandbox, func(method, path string, body any, headers ...string) caller.Answer) {
		sb, _, err := who.Create(t.Context(), "code-interpreter", fields)
		if err != nil {
			t.Fatal(err)
		}
		ends(t, sb)
		if a := must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/files/write", map[string]any{"path": "/tmp/echo.py", "content": echo})); a.Status != 200 {
			t.Fatal(a)
		}
		must[string](t)(sb.Start(t.Context(), "exec python3 /tmp/echo.py"))
		until(t, "it listens", 30*time.Second, func() (bool, error) {
			r, err := sb.Shell(t.Context(), "curl -s -o /dev/null localhost:8000/", 10*time.Second)
			return err == nil && r.ExitCode == 0, err
		})
		anyone := caller.Caller{URL: who.URL + "/sandboxes/" + sb.ID + "/ports/8000", HTTP: who.HTTP}
		return sb, func(method, path string, body any, headers ...string) caller.Answer {
			t.Helper()
			return must[caller.Answer](t)(anyone.Do(t.Context(), method, path, body, headers...))
		}
	}

	t.Run("public", func(t *testing.T) {
		sb, ask := serve(t, nil)
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			var body any
			if method != "GET" && method != "OPTIONS" {
				body = "the body"
			}
			a := ask(method, "/some/path?q=1%202&r", body, "X-Mine", "kept")
			if a.Status != 201 || a.Text("method") != method || a.Text("path") != "/some/path?q=1%202&r" || a.Text("headers.x-mine") != "kept" {
				t.Errorf("%s: %s", method, a)
			}
			if body != nil && a.Text("body") != "the body" {
				t.Errorf("%s: body %q", method, a.Text("body"))
			}
		}
		// What opens Hutch is none of a tenant's business.
		for _, h := range [][]string{{"X-API-Key", who.Key}, {"Authorization", "Bearer " + sb.Token}, {"Authorization", "Bearer " + who.Key}} {
			a := ask("GET", "/", nil, h...)
			if a.Status == 201 && (strings.Contains(string(a.Body), h[1]) || strings.Contains(string(a.Body), strings.TrimPrefix(h[1], "Bearer "))) {
				t.Errorf("%s reached the tenant", h[0])
			}
		}
		if a := ask("GET", "/", nil, "Authorization", "Basic dXNlcjpwYXNz"); a.Text("headers.authorization") != "Basic dXNlcjpwYXNz" {
			t.Errorf("the tenant's own authentication is stripped: %s", a)
		}
		anyone := caller.Caller{URL: who.URL, HTTP: who.HTTP}
		for path, statuses := range map[string][]int{
			"/sandboxes/" + sb.ID + "/ports/9/":       {502},
			"/sandboxes/" + sb.ID + "/ports/0/":       {400, 404},
			"/sandboxes/" + sb.ID + "/ports/65536/":   {400, 404},
			"/sandboxes/" + sb.ID + "/ports/x/":       {400, 404},
			"/sandboxes/" + nobody + "/ports/8000/":   {404},
			"/sandboxes/" + sb.ID + "/ports/7777/env": {401, 403},
		} {
			a := must[caller.Answer](t)(anyone.Do(t.Context(), http.MethodGet, path, nil))
			agentError(t, a, statuses...)
		}
	})

	t.Run("private", func(t *testing.T) {
		sb, ask := serve(t, map[string]any{"preview_access": "private"})
		other := made(t, who, nil)
		if a := ask("GET", "/", nil); a.Status != http.StatusUnauthorized {
			t.Errorf("without a token: %s", a)
		}
		if a := ask("GET", "/", nil, "Authorization", "Bearer "+other.Token); a.Status != http.StatusForbidden && a.Status != http.StatusUnauthorized {
			t.Errorf("with another's token: %s", a)
		}
		if a := ask("GET", "/", nil, "Authorization", "Bearer "+sb.Token); a.Status != 201 {
			t.Errorf("with its token: %s", a)
		}
	})

	t.Run("cut by the kill", func(t *testing.T) {
		sb, ask := serve(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodGet, who.URL+"/sandboxes/"+sb.ID+"/ports/8000/slow", nil))
		resp := must[*http.Response](t)(who.HTTP.Do(req))
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 3)); err != nil {
			t.Fatal("no stream:", err)
		}
		must[caller.Answer](t)(sb.Kill(t.Context()))
		began := time.Now()
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("the stream ended as if it were whole")
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("the stream went on for %v", took)
		}
		if a := ask("GET", "/", nil); a.Status != http.StatusNotFound {
			t.Errorf("after the kill: %s", a)
		}
	})
}
