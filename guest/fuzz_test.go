package guest

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch/api"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		ok            bool
		id            string
	}{
		{"/a/{id}", "/a/x", true, "x"}, {"/a/{id}", "/a", false, ""}, {"/a/{id}", "/a/x/y", false, ""}, {"/a/{id}/kill", "/a/x/kill", true, "x"},
		{"/a/{id}/kill", "/a/x/kil", false, ""}, {"/d/*", "/d/x/y", true, ""}, {"/d/*", "/d", false, ""}, {"/d/*", "/e/x", false, ""},
	} {
		v, ok := match(tt.pattern, tt.path)
		if ok != tt.ok || v["id"] != tt.id {
			t.Errorf("%s %s: %v %v", tt.pattern, tt.path, v, ok)
		}
	}
}

func TestParseKernelFiles(t *testing.T) {
	mem := parseMeminfo("MemTotal:  100 kB\nMemAvailable: 40 kB\nHugePages_Total: 3\njunk\nX: y\n")
	if mem["MemTotal"] != 102400 || mem["MemAvailable"] != 40960 || mem["HugePages_Total"] != 3 {
		t.Errorf("%v", mem)
	}
	busy, total, ok := parseCPU("cpu  10 1 5 80 4 0 0 0 7 0\ncpu0 1\n")
	if !ok || busy != 16 || total != 100 {
		t.Errorf("%d %d %v", busy, total, ok)
	}
	for _, s := range []string{"", "cpu", "cpu a b c d", "intr 1 2 3 4 5"} {
		if _, _, ok := parseCPU(s); ok {
			t.Errorf("%q", s)
		}
	}
}

func FuzzRouter(f *testing.F) {
	for _, s := range []string{"/", "//health", "/execute/kill/x", "/desktop/a/b", "/processes//kill", "/%2f", "/files/../env"} {
		f.Add(s)
	}
	a := &Agent{}
	rt := newRouter(a.table())
	f.Fuzz(func(t *testing.T, path string) {
		clean := cleanPath(path)
		if strings.Contains(clean, "//") || clean != "/" && strings.HasSuffix(clean, "/") || cleanPath(clean) != clean {
			t.Errorf("%q: %q", path, clean)
		}
		for _, method := range []string{"GET", "POST", "DELETE", "BREW"} {
			r, values, _ := rt.find(method, path)
			if id, ok := values["id"]; ok && (id == "" || strings.Contains(id, "/")) {
				t.Errorf("%q: %s with id %q", path, r.path, id)
			}
		}
	})
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"a+b", "%41", "%", "%4", "%zz", "100%.txt", "%2525"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := unescape(s)
		if want, err := url.QueryUnescape(s); err == nil && got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
		if len(got) > len(s) {
			t.Errorf("%q: %q", s, got)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add([]byte(`{"sandbox_id":"s1","token_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","hostname":"box","env":{"A":"b"},"workdir":"/app","dns":["10.0.0.1"]}`))
	f.Add([]byte(`{"sandbox_id":"../x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := parseIdentity(b)
		if err != nil {
			return
		}
		if !idRule.MatchString(id.SandboxID) || len(id.TokenKey) != 32 || strings.ContainsAny(id.Hostname, "\n\t /") {
			t.Errorf("%+v", id)
		}
	})
}

// FuzzRequests decodes every JSON body a user sends.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		`{"language":"python","code":"1","timeout":1e99,"env":{"A":1,"B":null,"C":true},"workdir":"/x"}`,
		`{"command":"x","args":["a",null],"timeout":-0.5}`, `{"env_vars":{"A":"b"},"merge":true}`, `{"path":"/x","mode":"0755"}`, `{"timeout":"x"}`, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var e api.ExecuteRequest
		if json.Unmarshal(b, &e) == nil {
			if d, err := e.Timeout.Duration(foregroundTimeout); err == nil && d < 0 {
				t.Errorf("%s: %v", b, d)
			}
		}
		var c api.CommandRequest
		if json.Unmarshal(b, &c) == nil && c.Command != nil {
			if d, err := c.Timeout.Duration(foregroundTimeout); err == nil && d < 0 {
				t.Errorf("%s: %v", b, d)
			}
		}
		_ = json.Unmarshal(b, &api.EnvRequest{})
		_ = json.Unmarshal(b, &api.MkdirRequest{})
	})
}

func FuzzUploadForm(f *testing.F) {
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/tmp/x\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nhi\r\n--b--\r\n"))
	f.Add([]byte("--b\r\n\r\n\r\n--b--"))
	f.Add([]byte("--b--"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body []byte) {
		u := upload{home: dir, resolve: func(string) (string, error) { return dir + "/file", nil }}
		if err := u.read(multipart.NewReader(bytes.NewReader(body), "b")); err == nil && u.draft != nil {
			r, err := u.draft.Reader()
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || int64(len(b)) != u.draft.Size() {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		}
		u.discard()
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			for _, l := range left {
				if strings.HasPrefix(l.Name(), ".hutch-tmp-") {
					t.Fatalf("left behind %s", l.Name())
				}
			}
		}
	})
}
