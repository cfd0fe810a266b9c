package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/internal/handshake"
	"github.com/hutch-sh/hutch/internal/token"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const sandboxID = "sabcdefghijklmnopqrst"

// A fixture is an agent that listens, and everything it takes to talk to it.
type fixture struct {
	*testing.T
	agent     *Agent
	url       string
	client    *http.Client
	root      string
	workspace string
	hostKey   ed25519.PrivateKey
	tokenKey  ed25519.PrivateKey
	token     string
	kept      map[string][]byte
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// mute starts an agent without an identity.
func mute(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{T: t, root: t.TempDir(), hostKey: newKey(t), tokenKey: newKey(t), kept: map[string][]byte{}}
	f.workspace = filepath.Join(t.TempDir(), "workspace")
	cfg := Config{
		HostKey: f.hostKey.Public().(ed25519.PublicKey), Root: f.root, Workspace: f.workspace, TempDir: t.TempDir(),
		Keep: func(name string, data []byte) error { f.kept[name] = data; return nil },
		Log:  slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if f.agent, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.agent.Serve(ctx, l) }()
	f.client = &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error {
		t.Error("redirected")
		return http.ErrUseLastResponse
	}}
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if err := f.agent.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	f.token = f.mint(sandboxID, time.Now(), time.Now().Add(time.Hour))
	return f
}

// ready starts an agent that has an identity.
func ready(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	f := mute(t, change...)
	f.introduce(f.identity())
	return f
}

func (f *fixture) mint(id string, issued, expires time.Time) string {
	f.Helper()
	tok, err := token.Mint(f.tokenKey, id, 1, issued, expires)
	if err != nil {
		f.Fatal(err)
	}
	return tok
}

func (f *fixture) identity() handshake.Identity {
	return handshake.Identity{
		SandboxID: sandboxID, TokenKey: f.tokenKey.Public().(ed25519.PublicKey), Hostname: "box",
		Env: map[string]string{"CREATION": "c"}, Base: map[string]string{"TEMPLATE": "t", "PATH": os.Getenv("PATH")},
		UnixNano: time.Now().UnixNano(), VCPU: 2, MemoryMB: 2048, DiskMB: 10240, Seed: []byte("seed"),
	}
}

// sign posts v as the host does.
func (f *fixture) sign(path string, v any) *reply {
	f.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	return f.send(http.MethodPost, path, bytes.NewReader(body), http.Header{"Authorization": {handshake.Sign(f.hostKey, path, body)}})
}

func (f *fixture) introduce(id handshake.Identity) *reply {
	f.Helper()
	return f.sign(handshake.IdentityPath, id).want(200)
}

// A reply is an answer, read.
type reply struct {
	f      *fixture
	what   string
	status int
	header http.Header
	body   []byte
}

// send makes a request without a token.
func (f *fixture) send(method, path string, body io.Reader, h http.Header) *reply {
	f.Helper()
	req, err := http.NewRequestWithContext(f.Context(), method, f.url+path, body)
	if err != nil {
		f.Fatal(err)
	}
	for k, v := range h {
		req.Header[k] = v
	}
	res, err := f.client.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		f.Fatalf("%s %s: %v", method, path, err)
	}
	return &reply{f, method + " " + path, res.StatusCode, res.Header, b}
}

// call makes a user's request; v is sent as JSON unless it is nil.
func (f *fixture) call(method, path string, v any) *reply {
	f.Helper()
	var body io.Reader
	switch v := v.(type) {
	case nil:
	case string:
		body = strings.NewReader(v)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		body = bytes.NewReader(b)
	}
	return f.send(method, path, body, http.Header{"Authorization": {"Bearer " + f.token}})
}

func (f *fixture) get(path string) *reply { f.Helper(); return f.call(http.MethodGet, path, nil) }

func (f *fixture) post(path string, v any) *reply {
	f.Helper()
	return f.call(http.MethodPost, path, v)
}

func (r *reply) want(status int) *reply {
	r.f.Helper()
	if r.status != status {
		r.f.Fatalf("%s: status %d, want %d: %.300s", r.what, r.status, status, r.body)
	}
	if ct := r.header.Get("Content-Type"); ct != "application/json" {
		r.f.Errorf("%s: content type %q", r.what, ct)
	}
	return r
}

// into decodes the answer. Null where a list or a map belongs crashes clients.
func (r *reply) into(v any) *reply {
	r.f.Helper()
	if err := json.Unmarshal(r.body, v); err != nil {
		r.f.Fatalf("%s: %v: %.300s", r.what, err, r.body)
	}
	if bytes.Contains(r.body, []byte(":null")) {
		r.f.Errorf("%s: a null in %.300s", r.what, r.body)
	}
	return r
}

// fails checks that the answer is an error as clients want it.
func (r *reply) fails(status int, code string) *reply {
	r.f.Helper()
	r.want(status)
	var body struct {
		Error     string          `json:"error"`
		Message   string          `json:"message"`
		Code      string          `json:"code"`
		RequestID string          `json:"request_id"`
		Timestamp string          `json:"timestamp"`
		Details   json.RawMessage `json:"details"`
	}
	if err := json.Unmarshal(r.body, &body); err != nil {
		r.f.Fatalf("%s: %v: %s", r.what, err, r.body)
	}
	if body.Code != code || body.Error == "" || body.Message == "" || len(body.Details) == 0 || body.Details[0] != '{' ||
		body.RequestID == "" || body.RequestID != r.header.Get("X-Request-ID") {
		r.f.Errorf("%s: want code %s: %s", r.what, code, r.body)
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000Z", body.Timestamp); err != nil {
		r.f.Errorf("%s: timestamp %q", r.what, body.Timestamp)
	}
	return r
}

type ran struct {
	Success       bool     `json:"success"`
	Stdout        string   `json:"stdout"`
	Stderr        string   `json:"stderr"`
	ExitCode      *int     `json:"exit_code"`
	ExecutionTime *float64 `json:"execution_time"`
	Language      string   `json:"language"`
	Command       string   `json:"command"`
	PID           int      `json:"pid"`
	Truncated     bool     `json:"truncated"`
	TimedOut      bool     `json:"timed_out"`
	Timestamp     string   `json:"timestamp"`
}

func (f *fixture) run(path string, v any) ran {
	f.Helper()
	var out ran
	f.post(path, v).want(200).into(&out)
	if out.ExitCode == nil || out.ExecutionTime == nil || out.Success != (*out.ExitCode == 0) {
		f.Fatalf("%s %v: %+v", path, v, out)
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000Z", out.Timestamp); err != nil {
		f.Errorf("timestamp %q", out.Timestamp)
	}
	return out
}

type m = map[string]any

func (f *fixture) bash(script string, more ...m) ran {
	f.Helper()
	req := m{"command": "bash", "args": []string{"-c", script}, "timeout": 30, "workdir": f.workspace}
	for _, x := range more {
		for k, v := range x {
			req[k] = v
		}
	}
	return f.run("/commands/run", req)
}

// eventually waits for what nothing announces.
func (f *fixture) eventually(what string, cond func() bool) {
	f.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			f.Fatalf("not in 10 s: %s", what)
		}
	}
}

func q(path string) string { return "?path=" + url.QueryEscape(path) }

func TestAuthMatrix(t *testing.T) {
	f := ready(t)
	now := time.Now()
	stranger := newKey(t)
	foreign, err := token.Mint(stranger, sandboxID, 1, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, header, code string }{
		{"none", "", api.CodeAuthenticationRequired},
		{"basic", "Basic eDp5", api.CodeAuthenticationRequired},
		{"empty bearer", "Bearer ", api.CodeAuthenticationRequired},
		{"garbage", "Bearer eyJx.y.z", api.CodeInvalidToken},
		{"api key", "Bearer hopx_live_abc.def", api.CodeInvalidToken},
		{"another key", "Bearer " + foreign, api.CodeInvalidToken},
		{"another sandbox", "Bearer " + f.mint("sother", now, now.Add(time.Hour)), api.CodeInvalidToken},
		{"expired", "Bearer " + f.mint(sandboxID, now.Add(-2*time.Hour), now.Add(-time.Hour)), api.CodeTokenExpired},
		{"changed", "Bearer " + f.token[:len(f.token)-20] + strings.Map(func(c rune) rune { return map[bool]rune{true: 'B', false: 'A'}[c == 'A'] }, f.token[len(f.token)-20:]), api.CodeInvalidToken},
		{"huge", "Bearer " + strings.Repeat("x", 8000), api.CodeInvalidToken},
		{"good", "Bearer " + f.token, ""},
		{"lower case", "bearer " + f.token, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range f.agent.routes.all {
				if r.access == forHost {
					continue
				}
				method, path := r.method, strings.NewReplacer("{id}", "x", "*", "x").Replace(r.path)
				if method == "" {
					method = http.MethodPost
				}
				h := http.Header{}
				if tt.header != "" {
					h.Set("Authorization", tt.header)
				}
				got := f.send(method, path, nil, h)
				switch {
				case r.access == forAnyone:
					got.want(200)
				case tt.code != "":
					got.fails(401, tt.code)
				case got.status == 401:
					t.Errorf("%s %s: %s", method, path, got.body)
				}
			}
			// Strangers do not learn which routes exist.
			if tt.code != "" {
				h := http.Header{"Authorization": {tt.header}}
				f.send(http.MethodGet, "/no/such/thing", nil, h).fails(401, tt.code)
				f.send(http.MethodPatch, "/execute", nil, h).fails(401, tt.code)
			}
		})
	}
}

func TestBeforeIdentity(t *testing.T) {
	f := mute(t)
	for _, r := range f.agent.routes.all {
		if r.access == forHost {
			continue
		}
		method := r.method
		if method == "" {
			method = http.MethodGet
		}
		got := f.call(method, strings.NewReplacer("{id}", "x", "*", "x").Replace(r.path), nil)
		got.fails(503, api.CodeServiceUnavailable)
		if got.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	f.get("/nothing").fails(503, api.CodeServiceUnavailable)
}

func TestHandshake(t *testing.T) {
	f := mute(t)
	id := f.identity()
	body, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	post := func(body []byte, auth string) *reply {
		return f.send(http.MethodPost, handshake.IdentityPath, bytes.NewReader(body), http.Header{"Authorization": {auth}})
	}
	other := newKey(t)
	post(body, "").fails(401, api.CodeInvalidToken)
	post(body, "Bearer "+f.token).fails(401, api.CodeInvalidToken)
	post(body, handshake.Sign(other, handshake.IdentityPath, body)).fails(401, api.CodeInvalidToken)
	post(body, handshake.Sign(f.hostKey, handshake.ShutdownPath, body)).fails(401, api.CodeInvalidToken)
	post(append(body, ' '), handshake.Sign(f.hostKey, handshake.IdentityPath, body)).fails(401, api.CodeInvalidToken)
	big := bytes.Repeat([]byte(" "), handshake.MaxBody+1)
	post(big, handshake.Sign(f.hostKey, handshake.IdentityPath, big)).fails(413, api.CodeRequestTooLarge)
	for name, change := range map[string]func(*handshake.Identity){
		"id":       func(i *handshake.Identity) { i.SandboxID = "../x" },
		"no id":    func(i *handshake.Identity) { i.SandboxID = "" },
		"key":      func(i *handshake.Identity) { i.TokenKey = []byte("short") },
		"hostname": func(i *handshake.Identity) { i.Hostname = "a\nb" },
		"dns":      func(i *handshake.Identity) { i.DNS = []string{"x"} },
		"env":      func(i *handshake.Identity) { i.Env = map[string]string{"A=B": "x"} },
		"base":     func(i *handshake.Identity) { i.Base = map[string]string{"": "x"} },
		"workdir":  func(i *handshake.Identity) { i.Workdir = "relative" },
		"ca":       func(i *handshake.Identity) { i.ExtraCA = "x" },
	} {
		bad := f.identity()
		change(&bad)
		if got := f.sign(handshake.IdentityPath, bad); got.status != 400 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	for _, junk := range []string{"", "{", "[]", `"x"`, "null"} {
		post([]byte(junk), handshake.Sign(f.hostKey, handshake.IdentityPath, []byte(junk))).fails(400, api.CodeInvalidRequest)
	}
	f.get("/health").fails(503, api.CodeServiceUnavailable)
	f.send(http.MethodGet, handshake.IdentityPath, nil, nil).fails(503, api.CodeServiceUnavailable)

	var first api.IdentityResponse
	f.introduce(id).into(&first)
	if first.Status != "ready" || first.SandboxID != sandboxID || len(first.Warnings) != 0 {
		t.Errorf("%+v", first)
	}
	f.introduce(id) // a host whose answer was lost sends it again
	if string(f.kept[keptIdentity]) != string(body) {
		t.Error("the identity was not kept for the next agent")
	}
	f.get("/health").want(200)
	f.get("/env").want(200)

	// A restore: the same agent becomes another sandbox's.
	again := f.identity()
	again.SandboxID, again.Hostname, again.Env = "sother", "other", map[string]string{"NEW": "1"}
	f.introduce(again)
	f.get("/env").fails(401, api.CodeInvalidToken)
	f.token = f.mint("sother", time.Now(), time.Now().Add(time.Hour))
	var env api.EnvResponse
	f.get("/env").want(200).into(&env)
	if env.EnvVars["NEW"] != "1" || env.EnvVars["CREATION"] != "" || env.EnvVars["HOSTNAME"] != "other" || env.EnvVars["HUTCH_SANDBOX_ID"] != "sother" {
		t.Errorf("%v", env.EnvVars)
	}
	b, err := os.ReadFile(f.root + "/etc/hostname")
	if err != nil || string(b) != "other\n" {
		t.Errorf("%q %v", b, err)
	}
}

func TestHandshakeExtraCA(t *testing.T) {
	f := mute(t)
	id := f.identity()
	id.ExtraCA = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
	id.DNS = []string{"10.1.2.3"}
	f.introduce(id)
	var env api.EnvResponse
	f.get("/env").want(200).into(&env)
	for _, k := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"} {
		if b, err := os.ReadFile(f.root + env.EnvVars[k]); err != nil || !bytes.Contains(b, []byte(id.ExtraCA)) {
			t.Errorf("%s=%s: %v", k, env.EnvVars[k], err)
		}
	}
	if b, err := os.ReadFile(f.root + "/etc/resolv.conf"); err != nil || !bytes.Contains(b, []byte("nameserver 10.1.2.3\n")) {
		t.Errorf("%q %v", b, err)
	}
}

// TestClockSkew gives the agent a clock that is a day behind, as in a guest
// restored from a snapshot.
func TestClockSkew(t *testing.T) {
	f := ready(t, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(-24 * time.Hour) } })
	var ping api.Ping
	f.get("/ping").want(200).into(&ping)
	if d := time.Since(ping.Timestamp.Time); d.Abs() > time.Minute {
		t.Errorf("off by %v", d)
	}
	f.get("/env").want(200)
	f.token = f.mint(sandboxID, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	f.get("/env").fails(401, api.CodeTokenExpired)
}

func TestShutdown(t *testing.T) {
	f := mute(t)
	f.sign(handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID}).fails(400, api.CodeInvalidRequest)
	f.introduce(f.identity())
	var out api.ShutdownResponse
	start := time.Now()
	f.sign(handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID, GraceMS: 60000}).want(200).into(&out)
	if out.Ended != 0 || time.Since(start) > 30*time.Second {
		t.Errorf("%+v after %v", out, time.Since(start))
	}
	f.sign(handshake.ShutdownPath, handshake.Shutdown{SandboxID: "sother"}).fails(400, api.CodeInvalidRequest)
	f.sign(handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID, GraceMS: -1}).fails(400, api.CodeInvalidRequest)
	f.call(http.MethodPost, handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID}).fails(401, api.CodeInvalidToken)

	mark := filepath.Join(t.TempDir(), "mark")
	var job api.BackgroundResponse
	f.post("/commands/background", m{"command": "bash", "args": []string{"-c", "trap 'echo term >" + mark + "; exit' TERM; echo up >" + mark + "; while :; do sleep 0.01; done"}}).want(200).into(&job)
	f.eventually("the job is up", func() bool { b, err := os.ReadFile(mark); return err == nil && string(b) == "up\n" })
	f.sign(handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID, GraceMS: 5000}).want(200).into(&out)
	if b, err := os.ReadFile(mark); out.Ended < 1 || err != nil || string(b) != "term\n" {
		t.Errorf("%+v, %q, %v", out, b, err)
	}
}

func TestRouting(t *testing.T) {
	f := ready(t)
	for _, p := range []string{"/health", "/health/", "//health", "///health//", "/health?x=1"} {
		f.get(p).want(200)
	}
	f.get("//files//list/" + q("/")).want(200)
	f.call(http.MethodHead, "/health", nil)
	f.get("/nothing").fails(404, api.CodeResourceNotFound)
	f.get("/desktop").fails(404, api.CodeResourceNotFound)
	f.get("/health/x").fails(404, api.CodeResourceNotFound)
	f.get("/execute/../health").fails(404, api.CodeResourceNotFound)
	got := f.get("/execute").fails(405, api.CodeMethodNotAllowed)
	if got.header.Get("Allow") != "POST" {
		t.Errorf("Allow %q", got.header.Get("Allow"))
	}
	if got := f.post("/env", m{}).fails(405, api.CodeMethodNotAllowed); got.header.Get("Allow") != "DELETE, GET, PATCH, PUT" {
		t.Errorf("Allow %q", got.header.Get("Allow"))
	}
	f.get("/execute/kill/x").fails(405, api.CodeMethodNotAllowed)
	for _, method := range []string{"GET", "POST", "PUT"} {
		got := f.call(method, "/desktop/vnc/status", nil).fails(400, api.CodeDesktopNotAvailable)
		if !strings.Contains(string(got.body), `"missing_dependencies":["`) {
			t.Errorf("%s", got.body)
		}
		f.call(method, "/update/apply", nil).fails(403, api.CodeForbidden)
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	f := ready(t)
	f.agent.routes = newRouter([]route{
		{http.MethodGet, "/panic", forAnyone, func(http.ResponseWriter, *http.Request) error { panic("oh") }},
		{http.MethodGet, "/fine", forAnyone, f.agent.ping},
	})
	f.get("/panic").fails(500, api.CodeInternalError)
	f.get("/fine").want(200)
}

func TestPublicAnswers(t *testing.T) {
	f := ready(t)
	var h map[string]any
	f.get("/health").want(200).into(&h)
	if h["status"] != "healthy" || h["vm_id"] != sandboxID || h["version"] != Version {
		t.Errorf("%v", h)
	}
	features, ok := h["features"].(map[string]any)
	if !ok || features["code_execution"] != true || features["languages"] == nil {
		t.Errorf("%v", h["features"])
	}
	for _, p := range []string{"/", "/info"} {
		var info map[string]any
		f.get(p).want(200).into(&info)
		for _, k := range []string{"agent", "version", "vm_id", "os", "arch", "ip", "port", "endpoints", "features"} {
			if info[k] == nil || info[k] == "" {
				t.Errorf("%s: no %s", p, k)
			}
		}
		if e, ok := info["endpoints"].(map[string]any); !ok || e["execute"] != "POST /execute" || e["root"] != "GET /" {
			t.Errorf("%v", info["endpoints"])
		}
		if _, ok := info["uptime"].(float64); !ok {
			t.Errorf("uptime %v", info["uptime"])
		}
	}
	var s api.System
	f.get("/system").want(200).into(&s)
	if s.Memory.Total != 2048<<20 || s.CPU.Cores != 2 || s.Disk.Total != 10240<<20 || s.UptimeSeconds <= 0 {
		t.Errorf("%+v", s)
	}
}

func TestMetrics(t *testing.T) {
	f := ready(t)
	f.bash("exit 0")
	f.bash("exit 1")
	f.get("/nothing")
	for _, p := range []string{"/metrics", "/metrics/snapshot"} {
		var out api.Metrics
		f.get(p).want(200).into(&out)
		if out.TotalExecutions != 2 || out.FailedExecutions != 1 || out.ActiveExecutions != 0 || out.TotalErrors != 1 ||
			out.RequestsTotal["/commands/run"] != 2 || out.AvgDurationMS["/commands/run"] <= 0 || out.P95DurationMS <= 0 || out.Process.Count < 2 {
			t.Errorf("%s: %+v", p, out)
		}
	}
	var c map[string]any
	f.get("/cache/stats").want(200).into(&c)
	if c["cache"] == nil || c["hits"] != 0.0 || c["hit_rate"] != 0.0 {
		t.Errorf("%v", c)
	}
	f.post("/cache/clear", nil).want(200).into(&c)
	if c["entries_removed"] != 0.0 || c["message"] != "Cache cleared successfully" {
		t.Errorf("%v", c)
	}
	var sessions api.SessionList
	f.get("/jupyter/sessions").want(200).into(&sessions)
}

func TestEnvRoutes(t *testing.T) {
	f := ready(t)
	show := func() map[string]string {
		t.Helper()
		var out api.EnvResponse
		f.get("/env").want(200).into(&out)
		if out.Count != len(out.EnvVars) {
			t.Errorf("count %d of %d", out.Count, len(out.EnvVars))
		}
		return out.EnvVars
	}
	if e := show(); e["PATH"] == "" || e["HOME"] == "" || e["TEMPLATE"] != "t" || e["CREATION"] != "c" {
		t.Errorf("%v", e)
	}
	var out api.EnvResponse
	f.call(http.MethodPatch, "/env", m{"env_vars": m{"API_KEY": "secret", "PORT": 3000, "ON": true}, "merge": true}).want(200).into(&out)
	if out.EnvVars["API_KEY"] != "secret" || out.EnvVars["PORT"] != "3000" || out.EnvVars["ON"] != "true" || out.EnvVars["PATH"] == "" {
		t.Errorf("%v", out.EnvVars)
	}
	if r := f.bash("echo $API_KEY-$CREATION-$TEMPLATE-$ONCE", m{"env": m{"ONCE": "1", "API_KEY": "own"}}); r.Stdout != "own-c-t-1\n" {
		t.Errorf("%q", r.Stdout)
	}
	if r := f.bash("echo $API_KEY-$ONCE; env | grep -c ^PATH="); r.Stdout != "secret-\n1\n" {
		t.Errorf("%q", r.Stdout)
	}
	// Delete as the clients do: read all, drop one, write the rest.
	all := show()
	delete(all, "API_KEY")
	delete(all, "CREATION")
	f.call(http.MethodPut, "/env", m{"env_vars": all}).want(200)
	if e := show(); e["API_KEY"] != "" || e["CREATION"] != "" || e["PORT"] != "3000" {
		t.Errorf("%v", e)
	}
	f.call(http.MethodPut, "/env", m{"env_vars": m{}}).want(200)
	if e := show(); e["PORT"] != "" || e["PATH"] == "" || e["TEMPLATE"] != "t" {
		t.Errorf("%v", e)
	}
	f.call(http.MethodPatch, "/env", m{"env_vars": m{"A": "1"}}).want(200)
	f.call(http.MethodDelete, "/env", nil).want(200)
	if e := show(); e["A"] != "" {
		t.Errorf("%v", e)
	}
	if f.kept[keptEnv] == nil {
		t.Error("not kept for the next agent")
	}
	for _, bad := range []string{`{"env_vars":{"A=B":"x"}}`, `{"env_vars":{"":"x"}}`, `{"env_vars":{"A":"\u0000"}}`, `{"env_vars":{"A\u0000":"x"}}`} {
		f.call(http.MethodPatch, "/env", bad).fails(400, api.CodeInvalidRequest)
		f.call(http.MethodPut, "/env", bad).fails(400, api.CodeInvalidRequest)
	}
	for _, bad := range []string{``, `{`, `{"env_vars":[]}`, `{"env_vars":{"A":{}}}`, `{"env_vars":"x"}`, `[]`} {
		f.call(http.MethodPatch, "/env", bad).fails(400, api.CodeInvalidJSON)
	}
	f.call(http.MethodPatch, "/env", `{}`).fails(400, api.CodeMissingParameter)
	big := strings.Repeat("x", maxJSON)
	f.call(http.MethodPatch, "/env", `{"env_vars":{"A":"`+big+`"}}`).fails(413, api.CodeRequestTooLarge)
}

// TestTakeover starts an agent from what another one had kept.
func TestTakeover(t *testing.T) {
	f := ready(t)
	f.call(http.MethodPatch, "/env", m{"env_vars": m{"SET": "later"}}).want(200)
	next, err := New(Config{HostKey: f.hostKey.Public().(ed25519.PublicKey), Root: f.root, Workspace: f.workspace, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := next.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := next.resume(f.kept); err != nil {
		t.Fatal(err)
	}
	if e := next.env.All(); e["SET"] != "later" || e["CREATION"] != "c" || next.sandboxID() != sandboxID {
		t.Errorf("%v", e)
	}
}
