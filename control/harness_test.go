package control

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// otherOrg is an organization that must never see the first one's things.
const otherOrg hutch.OrgID = 2

// A world is a server with a real store, a fake lifecycle and a clock that
// stands still until a test moves it.
type world struct {
	*testing.T
	srv   *Server
	db    *store.DB
	fake  *fake
	log   *logBuffer
	key   string // of the default organization
	other string // of otherOrg
	tmpl  hutch.Template

	mu sync.Mutex
	at time.Time
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hutch.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	addOrg(t, path)
	w := &world{T: t, db: db, log: &logBuffer{}, at: time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.UTC)}
	w.fake = newFake(db, w.now)
	cfg := Config{
		Address: Address{URL: "http://127.0.0.1:8080"}, Now: w.now,
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&cfg)
	}
	if w.srv, err = New(cfg, w.fake, db); err != nil {
		t.Fatal(err)
	}
	w.key = w.mint(hutch.DefaultOrg, time.Time{})
	w.other = w.mint(otherOrg, time.Time{})
	w.tmpl = w.put(hutch.Template{Org: hutch.DefaultOrg, Name: "code-interpreter", Public: true})
	return w
}

// addOrg writes an organization into the file: nothing of ours makes any yet.
func addOrg(t *testing.T, path string) {
	t.Helper()
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.ExecContext(t.Context(), `INSERT INTO organizations (id, name, created) VALUES (2, 'other', 1)`); err != nil {
		t.Fatal(err)
	}
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

func (w *world) mint(org hutch.OrgID, expires time.Time) string {
	w.Helper()
	full, _, err := MintKey(context.Background(), w.db, org, "test", w.now(), expires)
	if err != nil {
		w.Fatal(err)
	}
	return full
}

func (w *world) put(t hutch.Template) hutch.Template {
	w.Helper()
	t.Status, t.Image = hutch.TemplateActive, hutch.Digest("sha256:"+strings.Repeat("a", 64))
	t.Default = hutch.Resources{VCPU: 2, MemoryMB: 2048, DiskMB: 10240}
	t.Min = hutch.Resources{VCPU: 1, MemoryMB: 512, DiskMB: 1024}
	t.Max = hutch.Resources{VCPU: 8, MemoryMB: 16384, DiskMB: 102400}
	t.Created, t.Updated = w.now(), w.now()
	out, err := w.db.PutTemplate(context.Background(), t)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// An ask is a request of a test.
type ask struct {
	method, path string
	body         string
	key          string            // X-API-Key; "-": none; "": the world's
	header       map[string]string // besides
}

// An answered is what came of an ask.
type answered struct {
	*httptest.ResponseRecorder
	body map[string]any
}

// do asks and checks what every answer must be: JSON, named by a request id,
// and no redirect.
func (w *world) do(a ask) answered {
	w.Helper()
	out := w.raw(a)
	if ct := out.Header().Get("Content-Type"); ct != "application/json" {
		w.Fatalf("%s %s: Content-Type %q", a.method, a.path, ct)
	}
	if a.method == "HEAD" {
		return out
	}
	if err := json.Unmarshal(out.Body.Bytes(), &out.body); err != nil || out.body == nil {
		w.Fatalf("%s %s: no JSON object: %v\n%s", a.method, a.path, err, out.Body)
	}
	if out.body["request_id"] != out.Header().Get("X-Request-ID") {
		w.Errorf("%s %s: request id in body %v, in header %q", a.method, a.path, out.body["request_id"], out.Header().Get("X-Request-ID"))
	}
	return out
}

func (w *world) raw(a ask) answered {
	w.Helper()
	rec := httptest.NewRecorder()
	w.srv.ServeHTTP(rec, w.request(a))
	if rec.Code >= 300 && rec.Code < 400 && rec.Code != 304 {
		w.Fatalf("%s %s: redirect to %q", a.method, a.path, rec.Header().Get("Location"))
	}
	w.hold(a.method, a.path, rec)
	return answered{ResponseRecorder: rec}
}

// hold checks that an answer is as the OpenAPI document says, whatever the test
// is about.
func (w *world) hold(method, path string, rec *httptest.ResponseRecorder) {
	w.Helper()
	d, err := loadDocument()
	if err != nil {
		w.Fatal(err)
	}
	pattern := catchAll
	if n, ok := normal(httptest.NewRequest(method, "http://h"+path, nil)); ok {
		_, pattern = w.srv.mux.Handler(n)
	}
	if err := d.check(method, pattern, rec.Code, rec.Header(), rec.Body.Bytes()); err != nil {
		w.Errorf("%s %s: %d is not as documented: %v\n%s", method, path, rec.Code, err, rec.Body)
	}
}

func (w *world) request(a ask) *http.Request {
	var body io.Reader
	if a.body != "" {
		body = strings.NewReader(a.body)
	}
	r := httptest.NewRequest(a.method, "http://example.com"+a.path, body)
	switch a.key {
	case "-":
	case "":
		r.Header.Set("X-API-Key", w.key)
	default:
		r.Header.Set("X-API-Key", a.key)
	}
	for k, v := range a.header {
		r.Header.Set(k, v)
	}
	return r
}

// want asks and demands a status.
func (w *world) want(status int, a ask) answered {
	w.Helper()
	out := w.do(a)
	if out.Code != status {
		w.Fatalf("%s %s %s: %d, not %d: %s", a.method, a.path, clip(a.body), out.Code, status, out.Body)
	}
	return out
}

// create makes a sandbox and returns its id.
func (w *world) create() string {
	w.Helper()
	out := w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_name":"code-interpreter"}`})
	return out.body["id"].(string)
}

// fill fills a pattern's wildcards.
func fill(pattern string, values map[string]string) string {
	for k, v := range values {
		pattern = strings.ReplaceAll(pattern, "{"+k+"}", v)
	}
	return pattern
}

// some are values for every wildcard there is.
func (w *world) some(change map[string]string) map[string]string {
	m := map[string]string{"id": "s" + strings.Repeat("a", 20), "template": "code-interpreter", "key": strings.Repeat("k", 12), "file": "docs.js"}
	maps.Copy(m, change)
	return m
}

// A logBuffer is a log that tests may read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve answers a request as it is.
func (w *world) serve(r *http.Request) answered {
	w.Helper()
	out := answered{ResponseRecorder: httptest.NewRecorder()}
	w.srv.ServeHTTP(out, r)
	w.hold(r.Method, r.URL.EscapedPath(), out.ResponseRecorder)
	if err := json.Unmarshal(out.Body.Bytes(), &out.body); err != nil {
		w.Fatalf("%s %s: no JSON: %s", r.Method, r.URL, out.Body)
	}
	return out
}
