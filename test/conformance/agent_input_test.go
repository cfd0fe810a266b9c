package conformance

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
)

// agentError fails unless a is an error of the agent, in its own shape: there
// error is a text, for every client.
func agentError(t *testing.T, a caller.Answer, statuses ...int) {
	t.Helper()
	if !slices.Contains(statuses, a.Status) {
		t.Errorf("%s, want %v", a, statuses)
		return
	}
	for _, field := range []string{"error", "message", "code", "request_id"} {
		if a.Text(field) == "" {
			t.Errorf("%s is not a text in %s", field, a)
		}
	}
	if d := a.Field("details"); d != nil {
		if _, ok := d.(map[string]any); !ok {
			t.Errorf("details is not an object in %s", a)
		}
	}
	if id := a.Header.Get("X-Request-ID"); id == "" || id != a.Text("request_id") {
		t.Errorf("X-Request-ID %q and request_id %q differ", id, a.Text("request_id"))
	}
}

// TestCommandInput sends what commands and executions must refuse. Nothing may
// have been started by any of it.
func TestCommandInput(t *testing.T) {
	sb := made(t, target(t), nil)
	const mark = "/tmp/ran"
	ran := `"command":"touch","args":["` + mark + `"]`
	code := `"code":"touch ` + mark + `","language":"bash"`
	type entry struct {
		name, path, body string
		statuses         []int
	}
	bad := []int{400}
	var cases []entry
	for _, path := range []string{"/commands/run", "/commands/background"} {
		for name, body := range map[string]string{
			"no body": "", "not JSON": "touch", "cut off": `{` + ran, "a list": `[]`, "null": `null`, "two documents": `{` + ran + `}{}`,
			"no command": `{"args":["` + mark + `"]}`, "command empty": `{"command":""}`, "command a number": `{"command":7}`, "command a list": `{"command":["touch","` + mark + `"]}`,
			"args a string": `{"command":"touch","args":"` + mark + `"}`, "args of numbers": `{"command":"touch","args":[1]}`,
			"timeout negative": `{` + ran + `,"timeout":-1}`, "timeout a string": `{` + ran + `,"timeout":"1"}`, "timeout a boolean": `{` + ran + `,"timeout":true}`,
			"workdir a number": `{` + ran + `,"workdir":1}`, "workdir with a NUL": `{` + ran + `,"workdir":"/tmp\u0000"}`,
			"env a list": `{` + ran + `,"env":["A=1"]}`, "env of objects": `{` + ran + `,"env":{"A":{}}}`, "env name with =": `{` + ran + `,"env":{"A=B":"1"}}`, "env name empty": `{` + ran + `,"env":{"":"1"}}`, "env with a NUL": `{` + ran + `,"env":{"A":"\u0000"}}`,
		} {
			cases = append(cases, entry{name, path, body, bad})
		}
	}
	for _, path := range []string{"/execute", "/execute/background"} {
		for name, body := range map[string]string{
			"no body": "", "not JSON": "touch", "cut off": `{` + code, "a list": `[]`, "null": `null`,
			"no code": `{"language":"bash"}`, "code a number": `{"code":1,"language":"bash"}`, "code a list": `{"code":["touch ` + mark + `"],"language":"bash"}`,
			"language unknown": `{"code":"touch ` + mark + `","language":"cobol"}`, "language a number": `{"code":"touch ` + mark + `","language":1}`, "language a path": `{"code":"touch ` + mark + `","language":"../bash"}`,
			"timeout negative": `{` + code + `,"timeout":-1}`, "timeout a string": `{` + code + `,"timeout":"1"}`,
			"workdir a number": `{` + code + `,"workdir":1}`, "workdir with a NUL": `{` + code + `,"workdir":"/tmp\u0000"}`,
			"env a list": `{` + code + `,"env":["A=1"]}`, "env of lists": `{` + code + `,"env":{"A":[1]}}`, "env name with =": `{` + code + `,"env":{"A=B":"1"}}`,
		} {
			cases = append(cases, entry{name, path, body, bad})
		}
	}
	for _, c := range cases {
		t.Run(c.path+" "+c.name, func(t *testing.T) {
			agentError(t, must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, c.path, c.body)), c.statuses...)
		})
	}
	for _, path := range []string{"/commands/run", "/execute", "/commands/background", "/execute/background"} {
		t.Run(path+" wrong method", func(t *testing.T) {
			agentError(t, must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodGet, path, nil)), http.StatusMethodNotAllowed)
		})
	}
	// What no kernel can start is a command that failed, not a bad request.
	for name, body := range map[string]string{
		"command with a NUL": `{"command":"touch\u0000","args":["` + mark + `"]}`,
		"args with a NUL":    `{"command":"touch","args":["` + mark + `\u0000"]}`,
		"a directory":        `{"command":"/tmp","args":["` + mark + `"]}`,
		"args too long":      `{"command":"touch","args":["` + mark + `","` + text(200_000) + `"]}`,
	} {
		t.Run("/commands/run "+name, func(t *testing.T) {
			a := must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/commands/run", body))
			code, _ := a.Field("exit_code").(float64)
			if a.Status != http.StatusOK && a.Status != http.StatusBadRequest || a.Status == http.StatusOK && (code == 0 || a.Field("success") != false) {
				t.Error(a)
			}
		})
	}
	t.Run("nothing ran", func(t *testing.T) {
		r := must[caller.Result](t)(sb.Shell(t.Context(), "test ! -e "+mark+" && echo clean", 10*time.Second))
		if r.Stdout != "clean\n" {
			t.Errorf("a refused command ran: %+v", r)
		}
	})
	t.Run("a path unknown to the agent", func(t *testing.T) {
		agentError(t, must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/no/such", "{}")), http.StatusNotFound)
	})
	t.Run("kill of nothing", func(t *testing.T) {
		for _, id := range []string{"proc_x", "0", "-1", "1e9", "99999999", text(4000)} {
			a := must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/execute/kill/"+id, nil))
			agentError(t, a, http.StatusNotFound, http.StatusBadRequest)
		}
	})
	t.Run("kill of process 1 or of the agent is refused", func(t *testing.T) {
		for _, line := range []string{"echo 1", "pgrep -of 'hutch-agent [s]erve' || echo 1"} {
			r := must[caller.Result](t)(sb.Shell(t.Context(), line, 10*time.Second))
			must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/execute/kill/"+strings.TrimSpace(r.Stdout), nil))
		}
		r := must[caller.Result](t)(sb.Shell(t.Context(), "echo alive", 10*time.Second))
		if r.Stdout != "alive\n" {
			t.Errorf("%+v", r)
		}
	})
}

// TestFileInput sends what the files' routes must refuse. What was there stays.
func TestFileInput(t *testing.T) {
	sb := made(t, target(t), nil)
	const kept = "/tmp/kept"
	if a := must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/files/write", map[string]any{"path": kept, "content": "as it was"})); a.Status != 200 {
		t.Fatal(a)
	}
	query := func(path string) string { return "?path=" + url.QueryEscape(path) }
	bad := []int{400}
	missing := []int{404}
	cases := []struct {
		name, method, path string
		body               any
		statuses           []int
	}{
		{"read without a path", "GET", "/files/read", nil, bad},
		{"read an empty path", "GET", "/files/read?path=", nil, bad},
		{"read a NUL", "GET", "/files/read" + query("/tmp/a\x00b"), nil, bad},
		{"read nothing", "GET", "/files/read" + query("/no/such"), nil, missing},
		{"read a directory", "GET", "/files/read" + query("/tmp"), nil, []int{400, 409}},
		{"read a name too long", "GET", "/files/read" + query("/tmp/"+text(300)), nil, []int{400, 404}},
		{"read a path too long", "GET", "/files/read" + query("/"+strings.Repeat("a/", 5000)), nil, []int{400, 404, 414}},
		{"read below a file", "GET", "/files/read" + query(kept+"/x"), nil, []int{400, 404}},
		{"download nothing", "GET", "/files/download" + query("/no/such"), nil, missing},
		{"download without a path", "GET", "/files/download", nil, bad},
		{"download a directory", "GET", "/files/download" + query("/tmp"), nil, []int{400, 409}},
		{"list nothing", "GET", "/files/list" + query("/no/such"), nil, missing},
		{"list a file", "GET", "/files/list" + query(kept), nil, []int{400, 409}},
		{"list a NUL", "GET", "/files/list" + query("/\x00"), nil, bad},
		{"exists without a path", "GET", "/files/exists", nil, bad},
		{"remove without a path", "DELETE", "/files/remove", nil, bad},
		{"remove nothing", "DELETE", "/files/remove" + query("/no/such"), nil, missing},
		{"remove the root", "DELETE", "/files/remove" + query("/"), nil, []int{400, 403, 409}},
		{"remove the root, spelled out", "DELETE", "/files/remove" + query("/tmp/../.."), nil, []int{400, 403, 409}},
		{"remove the agent", "DELETE", "/files/remove" + query("/.hutch"), nil, []int{400, 403, 404, 409}},
		{"mkdir without a path", "POST", "/files/mkdir", map[string]any{}, bad},
		{"mkdir over a file", "POST", "/files/mkdir", map[string]any{"path": kept}, []int{400, 409}},
		{"mkdir a number", "POST", "/files/mkdir", `{"path":7}`, bad},
		{"mkdir a NUL", "POST", "/files/mkdir", `{"path":"/tmp/\u0000"}`, bad},
		{"write no body", "POST", "/files/write", "", bad},
		{"write not JSON", "POST", "/files/write", "hello", bad},
		{"write a list", "POST", "/files/write", "[]", bad},
		{"write cut off", "POST", "/files/write", `{"path":"` + kept + `","content":"x`, bad},
		{"write without a path", "POST", "/files/write", `{"content":"x"}`, bad},
		{"write an empty path", "POST", "/files/write", `{"path":"","content":"x"}`, bad},
		{"write a path that is a number", "POST", "/files/write", `{"path":1,"content":"x"}`, bad},
		{"write a NUL", "POST", "/files/write", `{"path":"/tmp/\u0000","content":"x"}`, bad},
		{"write to a directory", "POST", "/files/write", `{"path":"/tmp","content":"x"}`, []int{400, 409}},
		{"write to the root", "POST", "/files/write", `{"path":"/","content":"x"}`, []int{400, 409}},
		{"write below a file", "POST", "/files/write", `{"path":"` + kept + `/x","content":"x"}`, []int{400, 404, 409}},
		{"write content that is a number", "POST", "/files/write", `{"path":"` + kept + `","content":7}`, bad},
		{"write bad base64", "POST", "/files/write", `{"path":"` + kept + `","content":"***","encoding":"base64"}`, bad},
		{"write an unknown encoding", "POST", "/files/write", `{"path":"` + kept + `","content":"x","encoding":"rot13"}`, bad},
		{"write a mode that is none", "POST", "/files/write", `{"path":"` + kept + `","content":"x","mode":"rwx"}`, bad},
		{"write a mode too large", "POST", "/files/write", `{"path":"` + kept + `","content":"x","mode":"7777777"}`, bad},
		{"write a name too long", "POST", "/files/write", `{"path":"/tmp/` + text(300) + `","content":"x"}`, bad},
		{"write over the agent", "POST", "/files/write", `{"path":"/.hutch/hutch-agent","content":"x"}`, []int{400, 403, 409}},
		{"write to /proc", "POST", "/files/write", `{"path":"/proc/version","content":"x"}`, []int{400, 403, 409}},
		{"upload that is no form", "POST", "/files/upload", `{"path":"` + kept + `"}`, []int{400, 415}},
		{"wrong method", "POST", "/files/read" + query(kept), "{}", []int{405}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			agentError(t, must[caller.Answer](t)(sb.Agent(t.Context(), c.method, c.path, c.body)), c.statuses...)
		})
	}
	forms := map[string]func(*multipart.Writer){
		"upload without a file": func(w *multipart.Writer) { field(t, w, "path", kept) },
		"upload without a path": func(w *multipart.Writer) { file(t, w, "content") },
		"upload an empty form":  func(*multipart.Writer) {},
		"upload to a NUL":       func(w *multipart.Writer) { field(t, w, "path", "/tmp/\x00"); file(t, w, "x") },
		"upload to a directory": func(w *multipart.Writer) { file(t, w, "x"); field(t, w, "path", "/tmp") },
	}
	for name, fill := range forms {
		t.Run(name, func(t *testing.T) {
			body, kind := form(t, fill)
			agentError(t, must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/files/upload", body, "Content-Type", kind)), 400, 409)
		})
	}
	t.Run("upload cut off in the middle", func(t *testing.T) {
		body, kind := form(t, func(w *multipart.Writer) { field(t, w, "path", kept); file(t, w, text(100_000)) })
		agentError(t, must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodPost, "/files/upload", body[:50_000], "Content-Type", kind)), 400)
	})
	t.Run("what was there stays", func(t *testing.T) {
		a := must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodGet, "/files/read"+query(kept), nil))
		if a.Status != 200 || a.Text("content") != "as it was" {
			t.Error(a)
		}
		r := must[caller.Result](t)(sb.Shell(t.Context(), "ls -A /tmp; test -x /bin/ls && test -d /etc && echo whole", 10*time.Second))
		if r.Stdout != "kept\nwhole\n" {
			t.Errorf("left over: %q", r.Stdout)
		}
	})
}

func form(t *testing.T, fill func(*multipart.Writer)) ([]byte, string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	fill(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.FormDataContentType()
}

func field(t *testing.T, w *multipart.Writer, name, value string) {
	t.Helper()
	if err := w.WriteField(name, value); err != nil {
		t.Fatal(err)
	}
}

func file(t *testing.T, w *multipart.Writer, content string) {
	t.Helper()
	part, err := w.CreateFormFile("file", "f.bin")
	if err == nil {
		_, err = part.Write([]byte(content))
	}
	if err != nil {
		t.Fatal(err)
	}
}
