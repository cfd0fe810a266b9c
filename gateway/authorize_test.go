package gateway

import (
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/internal/token"
)

const apiKey = "hopx_live_abcdefghijkl.0123456789abcdefghijABCDEFGHIJ0123456789_-x"

// Every way to name a sandbox × every credential, to the agent and to a preview.
func TestWhoMayPass(t *testing.T) {
	w := newWorld(t)
	a, b := w.newGuest(), w.newGuest()
	agentA, agentB, appA := &recorder{name: "agent A"}, &recorder{name: "agent B"}, &recorder{name: "app A"}
	a.serve(hutch.AgentPort, agentA)
	b.serve(hutch.AgentPort, agentB)
	port := a.serve(0, appA)
	_, stranger, _ := ed25519.GenerateKey(nil)
	forged, _ := token.Mint(stranger, string(a.id), 1, time.Now(), time.Now().Add(time.Hour))

	creds := map[string]string{"none": "", "own": "Bearer " + a.token(), "other": "Bearer " + b.token(), "expired": "Bearer " + mint(a.id, -time.Hour),
		"forged": "Bearer " + forged, "basic": "Basic dTpw", "key": "Bearer " + apiKey, "theirs": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"}
	for _, c := range []struct {
		name, host, path string
		want             map[string]string // credential -> who answered, or status and code
	}{
		{"agent by host", a.host(7777), "/execute", map[string]string{"none": "401 AUTHENTICATION_REQUIRED", "own": "agent A", "other": "403 FORBIDDEN",
			"expired": "401 TOKEN_EXPIRED", "forged": "401 INVALID_TOKEN", "basic": "401 AUTHENTICATION_REQUIRED", "key": "401 AUTHENTICATION_REQUIRED", "theirs": "401 INVALID_TOKEN"}},
		{"agent by path", "", a.path(7777) + "/execute", map[string]string{"none": "401 AUTHENTICATION_REQUIRED", "own": "agent A", "other": "403 FORBIDDEN",
			"expired": "401 TOKEN_EXPIRED", "forged": "401 INVALID_TOKEN", "basic": "401 AUTHENTICATION_REQUIRED", "key": "401 AUTHENTICATION_REQUIRED", "theirs": "401 INVALID_TOKEN"}},
		{"agent by token", "", "/execute", map[string]string{"none": "418", "own": "agent A", "other": "agent B",
			"expired": "401 TOKEN_EXPIRED", "forged": "401 INVALID_TOKEN", "basic": "418", "key": "418", "theirs": "401 INVALID_TOKEN"}},
		{"public agent path", a.host(7777), "/health", map[string]string{"none": "agent A", "own": "agent A", "other": "403 FORBIDDEN",
			"expired": "agent A", "forged": "agent A", "basic": "agent A", "key": "agent A", "theirs": "agent A"}},
		{"nearly public agent path", a.host(7777), "/health/", map[string]string{"none": "401 AUTHENTICATION_REQUIRED", "own": "agent A"}},
		{"preview by host", a.host(port), "/", map[string]string{"none": "app A", "own": "app A", "other": "403 FORBIDDEN",
			"expired": "app A", "forged": "app A", "basic": "app A", "key": "app A", "theirs": "app A"}},
		{"preview by path", "", a.path(port) + "/", map[string]string{"none": "app A", "own": "app A", "other": "403 FORBIDDEN",
			"expired": "app A", "forged": "app A", "basic": "app A", "key": "app A", "theirs": "app A"}},
	} {
		for cred, want := range c.want {
			var h []string
			if creds[cred] != "" {
				h = []string{"Authorization", creds[cred]}
			}
			got := w.do("GET", c.host, c.path, nil, h...)
			text := got.body
			if got.status != http.StatusOK {
				text = http.StatusText(got.status)
				var e api.AgentErrorBody
				if got.status == http.StatusTeapot {
					text = "418"
				} else if err := json.Unmarshal([]byte(got.body), &e); err != nil {
					t.Errorf("%s with %s: %q is not JSON", c.name, cred, got.body)
				} else {
					text = strings.Join([]string{strings.Fields(want)[0], e.Code}, " ")
					if e.Error == "" || e.RequestID == "" || got.header.Get("X-Request-ID") != e.RequestID || e.Details == nil {
						t.Errorf("%s with %s: envelope %+v", c.name, cred, e)
					}
				}
			}
			if text != want {
				t.Errorf("%s with %s: %d %s, want %s", c.name, cred, got.status, text, want)
			}
		}
	}

	// What reached the servers bore only what is theirs to see.
	for _, r := range appA.seen {
		switch auth := r.Header.Get("Authorization"); auth {
		case "", creds["basic"], creds["theirs"], creds["forged"]:
		case creds["key"]:
			t.Error("the application saw an API key")
		default:
			t.Errorf("the application saw %q", auth)
		}
	}
	for _, r := range append(agentA.seen, agentB.seen...) {
		auth := r.Header.Get("Authorization")
		if auth != "" && auth != creds["own"] && auth != creds["other"] {
			t.Errorf("an agent saw %q", auth)
		}
	}
	for name, c := range creds {
		if _, secret, _ := strings.Cut(c, " "); len(secret) > 20 && strings.Contains(w.log.String(), secret) {
			t.Errorf("the log has the credential %q", name)
		}
	}
}

func TestAgentsOwnPathsAreClosed(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	agent := &recorder{name: "agent"}
	a.serve(hutch.AgentPort, agent)
	auth := "Authorization: Bearer " + a.token() + "\r\n"
	for _, path := range []string{"/_hutch/identity", "/_hutch", "/_hutch/", "//_hutch/identity", "/./_hutch/identity", "/x/../_hutch/identity",
		"/%5fhutch/identity", "/_hutch%2fidentity", "/%2e%2f_hutch/shutdown", "/%2F_hutch/identity"} {
		got, err := w.rawRequest("POST " + path + " HTTP/1.1\r\nHost: " + a.host(7777) + "\r\n" + auth + "Content-Length: 0\r\nConnection: close\r\n\r\n")
		if err != nil || got.status != http.StatusNotFound {
			t.Errorf("%s: %d, %v", path, got.status, err)
		}
	}
	if agent.count() != 0 {
		t.Errorf("%d requests reached the agent", agent.count())
	}
	// On a user's own port the path is the user's.
	app := &recorder{name: "app"}
	port := a.serve(0, app)
	if got := w.do("GET", a.host(port), "/_hutch/x", nil); got.body != "app" {
		t.Error(got)
	}
}

func TestPrivatePreviews(t *testing.T) {
	w := newWorld(t)
	a, b := w.newGuest(), w.newGuest()
	app := &recorder{name: "app"}
	port := a.serve(0, app)
	other := a.serve(0, app)
	w.private.Store(a.id, true)
	soon := time.Now().Add(time.Hour)
	link := SignLink(priv, a.id, uint16(port), soon)
	_, stranger, _ := ed25519.GenerateKey(nil)
	for _, c := range []struct {
		name, query, auth string
		port              int
		want              int
		seen              string
	}{
		{"nothing", "", "", port, 401, ""},
		{"own token", "?a=b;c&d", "Bearer " + a.token(), port, 200, "a=b;c&d"},
		{"other token", "", "Bearer " + b.token(), port, 403, ""},
		{"expired token", "", "Bearer " + mint(a.id, -time.Hour), port, 401, ""},
		{"user's own authorization", "", "Basic dTpw", port, 401, ""},
		{"link", "?x=1&hutch_token=" + link + "&y=%20", "", port, 200, "x=1&y=%20"},
		{"link, name escaped", "?hutch%5Ftoken=" + link, "", port, 200, ""},
		{"link and user's own authorization", "?hutch_token=" + link, "Basic dTpw", port, 200, ""},
		{"link of another port", "?hutch_token=" + link, "", other, 401, ""},
		{"link of another sandbox", "?hutch_token=" + SignLink(priv, b.id, uint16(port), soon), "", port, 401, ""},
		{"expired link", "?hutch_token=" + SignLink(priv, a.id, uint16(port), time.Now().Add(-time.Second)), "", port, 401, ""},
		{"forged link", "?hutch_token=" + SignLink(stranger, a.id, uint16(port), soon), "", port, 401, ""},
		{"cut link", "?hutch_token=" + link[:len(link)-1], "", port, 401, ""},
		{"two links", "?hutch_token=" + link + "&hutch_token=" + link, "", port, 401, ""},
		{"token as link", "?hutch_token=" + a.token(), "", port, 401, ""},
		{"empty link", "?hutch_token=", "", port, 401, ""},
	} {
		for _, form := range []string{"host", "path"} {
			host, path := a.host(c.port), "/"
			if form == "path" {
				host, path = "", a.path(c.port)+"/"
			}
			var h []string
			if c.auth != "" {
				h = []string{"Authorization", c.auth}
			}
			before := app.count()
			got := w.do("GET", host, path+c.query, nil, h...)
			if got.status != c.want {
				t.Errorf("%s by %s: %d %s", c.name, form, got.status, got.body)
				continue
			}
			if (got.status == 200) != (app.count() > before) {
				t.Errorf("%s by %s: the application saw it: %v", c.name, form, app.count() > before)
			}
			if got.status == 200 && app.last().URL.RawQuery != c.seen {
				t.Errorf("%s by %s: query %q, want %q", c.name, form, app.last().URL.RawQuery, c.seen)
			}
		}
	}
	// The page's own requests tell the link to nobody.
	w.do("GET", a.host(port), "/style.css?hutch_token="+link, nil, "Referer", "http://"+a.host(port)+"/?hutch_token="+link+"&q=1")
	if ref := app.last().Header.Get("Referer"); ref != "http://"+a.host(port)+"/?q=1" {
		t.Errorf("Referer %q", ref)
	}
	// A link never opens the agent, not even one that was signed for its port.
	a.serve(hutch.AgentPort, app)
	if got := w.do("GET", a.host(7777), "/env?hutch_token="+SignLink(priv, a.id, 7777, soon), nil); got.status != 401 {
		t.Errorf("a link opened the agent: %d", got.status)
	}
	// Who is told where a page without a slash is keeps the link.
	got := w.do("GET", "", a.path(port)+"?hutch_token="+link, nil, "Accept", "text/html")
	if got.status != 308 || got.header.Get("Location") != a.path(port)+"/?hutch_token="+link {
		t.Errorf("redirect %d %q", got.status, got.header.Get("Location"))
	}
}

func TestHostsAreChecked(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Hosts = []string{"127.0.0.1", "localhost", "*.corp.example"} })
	a := w.newGuest()
	a.serve(hutch.AgentPort, &recorder{name: "agent"})
	for host, want := range map[string]int{"127.0.0.1:8080": 200, "LOCALHOST": 200, "x.corp.example:1": 200, "corp.example": 403, "evil.example": 403,
		"127.0.0.1.evil.example": 403, a.host(7777): 200} {
		for _, path := range []string{"/env", a.path(7777) + "/env"} {
			if host == a.host(7777) && path != "/env" {
				continue
			}
			if got := w.do("GET", host, path, nil, "Authorization", "Bearer "+a.token()); got.status != want {
				t.Errorf("%s%s: %d, want %d", host, path, got.status, want)
			}
		}
	}
}

// A token that is remembered as good still expires.
func TestRememberedTokensExpire(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	w := newWorld(t, func(c *Config) { c.Now = func() time.Time { return time.Unix(0, now.Load()) } })
	a := w.newGuest()
	a.serve(hutch.AgentPort, &recorder{name: "agent"})
	tok := mint(a.id, time.Hour)
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 200}, {0, 200}, {time.Hour - time.Second, 200}, {2 * time.Hour, 401}, {-48 * time.Hour, 401}, {0, 200}} {
		now.Store(time.Now().Add(c.after).UnixNano())
		if got := w.do("GET", "", "/env", nil, "Authorization", "Bearer "+tok); got.status != c.want {
			t.Errorf("after %v: %d, want %d", c.after, got.status, c.want)
		}
	}
	for range maxVerified + 10 {
		w.g.tokens.mu.Lock()
		w.g.tokens.good[string(hutch.NewSandboxID())] = token.Claims{}
		full := len(w.g.tokens.good) >= maxVerified
		w.g.tokens.mu.Unlock()
		if full {
			break
		}
	}
	now.Store(time.Now().UnixNano())
	w.do("GET", "", "/env", nil, "Authorization", "Bearer "+mint(a.id, time.Minute))
	w.g.tokens.mu.Lock()
	defer w.g.tokens.mu.Unlock()
	if n := len(w.g.tokens.good); n > maxVerified {
		t.Errorf("%d tokens are remembered", n)
	}
}
