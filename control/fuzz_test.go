package control

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hutch-sh/hutch"
)

// mustBeInvalid demands that a decoder's error is one a client may see, and that it
// stays small whatever the input was.
func mustBeInvalid(t *testing.T, err error) {
	t.Helper()
	if hutch.KindOf(err) != hutch.Invalid {
		t.Fatalf("not Invalid: %v", err)
	}
	if e, _ := errors.AsType[*hutch.Error](err); e.Msg == "" || len(e.Msg) > 400 || !utf8.ValidString(e.Msg) || !printable(e.Msg) {
		t.Fatalf("message %q", e.Msg)
	}
}

func FuzzDecodeCreate(f *testing.F) {
	for _, b := range bodies {
		if len(b) < 10_000 {
			f.Add([]byte(b), "k")
		}
	}
	f.Add([]byte(`{"template_id":1,"timeout_seconds":5,"env_vars":{"A":"\ud83d\ude00"},"metadata":{"a":"b"},"vcpu":1,"on_timeout":"stop"}`), "")
	f.Add([]byte(`{"template_name":"x","preview_access":"private","internet_access":false,"disk_gb":10,"region":"r","unknown":[{}]}`), "\x00")
	f.Fuzz(func(t *testing.T, body []byte, key string) {
		h := http.Header{}
		if key != "" {
			h["Idempotency-Key"] = []string{key}
		}
		req, err := decodeCreate(h, body, Config{MaxTimeout: time.Hour})
		if err != nil {
			mustBeInvalid(t, err)
			return
		}
		if !utf8.Valid(body) || !json.Valid(body) {
			t.Fatal("accepted what is no JSON")
		}
		if req.Template == "" || len(req.Template) > maxTemplateLen || !printable(req.Template) || !printable(req.Region) || len(req.Region) > maxRegionLen {
			t.Fatalf("%+v", req)
		}
		if req.Timeout <= 0 || req.Timeout > time.Hour || req.Timeout%time.Second != 0 || len(req.BodyHash) != 32 || len(req.IdempotencyKey) > maxIdempotency {
			t.Fatalf("%+v", req)
		}
		if r := req.Resources; r.VCPU < 0 || r.MemoryMB < 0 || r.DiskMB < 0 || r.VCPU > maxSize || r.DiskMB > maxSize*1024 {
			t.Fatalf("%+v", r)
		}
		switch req.OnTimeout {
		case hutch.Gone, hutch.Paused, hutch.Stopped:
		default:
			t.Fatalf("%+v", req)
		}
		total := 0
		for k, v := range req.Env {
			if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") || strings.HasPrefix(k, reservedEnv) || !utf8.ValidString(k+v) {
				t.Fatalf("%q=%q", k, v)
			}
			total += len(k) + len(v)
		}
		if total > maxEnvBytes || len(req.Metadata) > maxMetadata {
			t.Fatalf("%d bytes, %d labels", total, len(req.Metadata))
		}
		// Spelled anew it is the same request.
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(string(body), ".eE") {
			return // numbers might be spelled another way
		}
		again, err := decodeCreate(h, indent(t, body), Config{MaxTimeout: time.Hour})
		if err != nil || string(again.BodyHash) != string(req.BodyHash) {
			t.Fatalf("another request when indented: %v", err)
		}
	})
}

func indent(t *testing.T, b []byte) []byte {
	var out strings.Builder
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	e := json.NewEncoder(&out)
	e.SetIndent("\t", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return []byte(out.String())
}

func FuzzDecodeTimeout(f *testing.F) {
	for _, b := range []string{`{"timeout_seconds":1}`, `{"timeout_seconds":null}`, `{"timeout_seconds":-1}`, `{"timeout_seconds":1e9}`, `{}`, ``, `[`,
		`{"timeout_seconds":99999999999999999999}`, `{"timeout_seconds":1,"timeout_seconds":2}`} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := decodeTimeout(body, 0)
		if err != nil {
			mustBeInvalid(t, err)
		} else if d < 0 || d > maxTimeout || d%time.Second != 0 {
			t.Fatal(d)
		}
	})
}

func FuzzDecodeCreateKey(f *testing.F) {
	for _, b := range []string{`{"name":"a"}`, `{"name":"a","expires_in":"1year"}`, `{"name":null}`, `{"name":"\u0000"}`, `{"name":"a","expires_in":"x"}`} {
		f.Add([]byte(b))
	}
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, body []byte) {
		name, expires, err := decodeCreateKey(body, now)
		if err != nil {
			mustBeInvalid(t, err)
		} else if name == "" || len(name) > maxKeyNameLen || !printable(name) || (!expires.IsZero() && !expires.After(now)) {
			t.Fatal(name, expires)
		}
	})
}

func FuzzDecodeQueries(f *testing.F) {
	for _, q := range []string{"limit=5&cursor=x", "limit=0", "status=running&metadata.a=b", "metadata.=x", "a=%zz", "grace=5", "grace=-1", "category=a&language=b",
		"limit=%00", ";", "metadata.%ff=1", "region=%0d%0a"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		l, err := decodeList(1, raw)
		if err != nil {
			mustBeInvalid(t, err)
		} else if l.Limit < 1 || l.Limit > maxLimit || len(l.Cursor) > maxCursorLen || len(l.Metadata) > maxFilters ||
			!printable(l.Region+l.Template+l.Cursor+l.Status) {
			t.Fatalf("%+v", l)
		}
		if g, err := decodeGrace(raw); err != nil {
			mustBeInvalid(t, err)
		} else if g > maxGraceSeconds*time.Second || g < -time.Second {
			t.Fatal(g)
		}
		if c, l, err := decodeTemplates(raw); err != nil {
			mustBeInvalid(t, err)
		} else if !printable(c+l) || len(c) > maxTemplateLen {
			t.Fatalf("%q %q", c, l)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	good := "hopx_live_abcdefghijkl." + strings.Repeat("A", 43)
	for _, s := range []string{good, good[:40], "hopx_live_", "sk_live_x", good + ".", strings.ToUpper(good), ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := parseKey(s)
		if (err == nil) != keyShape.MatchString(s) {
			t.Fatalf("%q: %v", s, err)
		}
		if err == nil && id != s[10:22] {
			t.Fatalf("%q: id %q", s, id)
		}
	})
}

func FuzzCredential(f *testing.F) {
	f.Add("Bearer x", "x")
	f.Add("Basic x", "")
	f.Add("", "")
	f.Add("Bearer a b", " a b ")
	f.Fuzz(func(t *testing.T, auth, key string) {
		c, err := credential(http.Header{"Authorization": {auth}, "X-Api-Key": {key}})
		if (err == nil) == (c == "") {
			t.Fatalf("%q, %v", c, err)
		}
		if err != nil && hutch.KindOf(err) != hutch.Unauthenticated {
			t.Fatal(err)
		}
		if k := strings.TrimSpace(key); err == nil && k != "" && c != k {
			t.Fatalf("took %q and not %q", c, k)
		}
	})
}

// Whatever the path is, the mux is never asked to clean it up: that would be a
// redirect.
func FuzzNormal(f *testing.F) {
	for _, p := range []string{"/", "//v1/sandboxes/", "/a/../b", "/a/%2e%2e/b", "/a%2Fb", "/%zz", "*", "", "/a//./b", "/%00", "/v1/sandboxes/%2F/"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		u, err := url.ParseRequestURI(p)
		if err != nil {
			return
		}
		r := httptest.NewRequest(http.MethodGet, "http://h/", nil)
		r.URL.Path, r.URL.RawPath = u.Path, u.RawPath
		n, ok := normal(r)
		if !ok {
			return
		}
		esc := n.URL.EscapedPath()
		if !strings.HasPrefix(esc, "/") || path.Clean(esc) != esc || (esc != "/" && strings.HasSuffix(esc, "/")) {
			t.Fatalf("%q became %q", p, esc)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
		mux.HandleFunc("/v1/sandboxes", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
		w := httptest.NewRecorder()
		if mux.ServeHTTP(w, n); w.Code != http.StatusTeapot {
			t.Fatalf("%q became %q and %d", p, esc, w.Code)
		}
	})
}
