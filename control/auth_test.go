package control

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/internal/token"
)

// public lists the routes that ask for no credentials. A route is not public
// because nobody thought of it.
var public = map[string]bool{
	"GET /health": true, "GET /openapi.json": true, "GET /openapi.yaml": true, "GET /docs": true, "GET /docs/{file}": true,
}

func TestEveryRouteDemandsCredentials(t *testing.T) {
	w := newWorld(t)
	revoked, expired := w.mint(hutch.DefaultOrg, time.Time{}), w.mint(hutch.DefaultOrg, w.now().Add(time.Hour))
	if err := w.db.RevokeKey(t.Context(), hutch.DefaultOrg, revoked[10:22]); err != nil {
		t.Fatal(err)
	}
	w.advance(time.Hour)
	jwt, err := token.Mint(w.fake.sign, "s"+strings.Repeat("a", 20), 1, w.now(), w.now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) string {
		b := []byte(w.key)
		if b[i]++; b[i] == 'z'+1 || b[i] == 'Z'+1 || b[i] == '9'+1 {
			b[i] = 'a'
		}
		return string(b)
	}
	const missing, bad = "AUTHENTICATION_REQUIRED", "INVALID_TOKEN"
	creds := []struct {
		name, code string
		header     http.Header
	}{
		{"nothing", missing, http.Header{}},
		{"empty", missing, http.Header{"X-Api-Key": {""}, "Authorization": {"Bearer "}}},
		{"another scheme", bad, http.Header{"Authorization": {"Basic " + w.key}}},
		{"no scheme", bad, http.Header{"Authorization": {w.key}}},
		{"not a key", bad, http.Header{"X-Api-Key": {"hello"}}},
		{"the id alone", bad, http.Header{"X-Api-Key": {w.key[:22]}}},
		{"another secret", bad, http.Header{"X-Api-Key": {flip(30)}}},
		{"another id", bad, http.Header{"X-Api-Key": {flip(15)}}},
		{"more behind it", bad, http.Header{"X-Api-Key": {w.key + "x"}}},
		{"revoked", bad, http.Header{"X-Api-Key": {revoked}}},
		{"expired", bad, http.Header{"Authorization": {"Bearer " + expired}}},
		{"a sandbox's token", bad, http.Header{"Authorization": {"Bearer " + jwt}}},
		{"two keys", bad, http.Header{"X-Api-Key": {w.key}, "Authorization": {"Bearer " + w.other}}},
		{"a key and rubbish", bad, http.Header{"X-Api-Key": {w.key}, "Authorization": {"Bearer x"}}},
		{"two headers of one name", bad, http.Header{"X-Api-Key": {w.key, w.other}}},
		{"huge", bad, http.Header{"X-Api-Key": {strings.Repeat("x", 60_000)}}},
	}
	for _, rt := range routes {
		name := rt.method + " " + rt.pattern
		if isPublic := rt.limit == unlimited; isPublic != public[name] {
			t.Errorf("%s: public is %v", name, isPublic)
		}
		if rt.limit == unlimited {
			continue
		}
		for _, c := range creds {
			r := w.request(ask{method: rt.method, path: fill(rt.pattern, w.some(nil)), key: "-", body: "{"})
			r.Header = c.header.Clone()
			r.Header.Set("User-Agent", "curl")
			out := w.serve(r)
			if out.Code != 401 || out.body["code"] != c.code || out.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %s: %d %v", name, c.name, out.Code, out.body)
			}
			if msg, _ := out.body["message"].(string); !strings.Contains(msg, "authentication") {
				t.Errorf("%s with %s: the message %q lacks the word", name, c.name, msg)
			}
			for _, secret := range []string{w.key[23:], w.other[23:], jwt} {
				if strings.Contains(out.Body.String(), secret) {
					t.Errorf("%s with %s: the answer has a secret", name, c.name)
				}
			}
		}
	}
	if w.fake.calls != 0 {
		t.Errorf("%d calls reached the lifecycle", w.fake.calls)
	}
	for _, secret := range []string{w.key[23:], w.other[23:], revoked[23:], expired[23:], jwt} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("the log has a secret")
		}
	}
}

func TestCredentialsAccepted(t *testing.T) {
	w := newWorld(t)
	for name, h := range map[string]http.Header{
		"X-API-Key":          {"X-Api-Key": {w.key}},
		"Bearer":             {"Authorization": {"Bearer " + w.key}},
		"bearer":             {"Authorization": {"bearer  " + w.key + " "}},
		"the same in both":   {"Authorization": {"Bearer " + w.key}, "X-Api-Key": {w.key}},
		"one of them empty":  {"Authorization": {""}, "X-Api-Key": {w.key}},
		"the same key twice": {"X-Api-Key": {w.key, w.key}},
	} {
		r := w.request(ask{method: "GET", path: "/v1/sandboxes", key: "-"})
		r.Header = h
		if out := w.serve(r); out.Code != 200 {
			t.Errorf("%s: %d %s", name, out.Code, out.Body)
		}
	}
}

// When the store cannot be asked nobody is let in.
func TestAuthenticationFailsClosed(t *testing.T) {
	w := newWorld(t)
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, rt := range routes {
		if rt.limit == unlimited {
			continue
		}
		out := w.do(ask{method: rt.method, path: fill(rt.pattern, w.some(nil))})
		if out.Code < 500 {
			t.Errorf("%s %s: %d %s", rt.method, rt.pattern, out.Code, out.Body)
		}
	}
	if w.fake.calls != 0 {
		t.Errorf("%d calls reached the lifecycle", w.fake.calls)
	}
}

// Another organization's things are not there, on any route.
func TestOrganizationsAreApart(t *testing.T) {
	w := newWorld(t)
	id := w.create()
	private := w.put(hutch.Template{Org: hutch.DefaultOrg, Name: "secret"})
	names := []map[string]string{
		{"id": id, "template": private.Name, "key": w.key[10:22]},
		{"id": id, "template": string(private.ID), "key": w.key[10:22]},
	}
	before := w.want(200, ask{method: "GET", path: "/v1/sandboxes/" + id}).body
	absent := map[string]string{"id": string(hutch.NewSandboxID()), "template": "absent", "key": "absentabsent"}
	probes := 0
	for _, rt := range routes {
		if rt.limit == unlimited || !strings.Contains(rt.pattern, "{") {
			continue
		}
		for _, n := range names {
			a := ask{method: rt.method, path: fill(rt.pattern, n), body: `{"timeout_seconds":1}`, key: w.other}
			out := w.want(404, a)
			a.path = fill(rt.pattern, absent)
			none := w.want(404, a)
			if out.body["message"] != none.body["message"] || out.body["code"] != "RESOURCE_NOT_FOUND" ||
				len(out.body["details"].(map[string]any)) != len(none.body["details"].(map[string]any)) {
				t.Errorf("%s %s: another's %s and nobody's %s differ", rt.method, rt.pattern, out.Body, none.Body)
			}
			probes++
		}
	}
	t.Logf("%d probes", probes)
	w.want(404, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_name":"secret"}`, key: w.other})
	if l := w.want(200, ask{method: "GET", path: "/v1/sandboxes", key: w.other}); len(l.body["data"].([]any)) != 0 {
		t.Errorf("listed: %s", l.Body)
	}
	if l := w.want(200, ask{method: "GET", path: "/v1/api-keys", key: w.other}); l.body["count"] != 1.0 || strings.Contains(l.Body.String(), w.key[10:22]) {
		t.Errorf("listed: %s", l.Body)
	}
	if l := w.want(200, ask{method: "GET", path: "/v1/templates", key: w.other}); strings.Contains(l.Body.String(), "secret") {
		t.Errorf("listed: %s", l.Body)
	}
	after := w.want(200, ask{method: "GET", path: "/v1/sandboxes/" + id}).body
	if before["status"] != after["status"] || after["expires_at"] != nil {
		t.Errorf("changed: %v", after)
	}
}

func TestLastUse(t *testing.T) {
	w := newWorld(t)
	used := func() time.Time {
		k, err := w.db.Key(t.Context(), w.key[10:22])
		if err != nil {
			t.Fatal(err)
		}
		return k.LastUsed
	}
	if !used().IsZero() {
		t.Fatal("used before its use")
	}
	get := ask{method: "GET", path: "/v1/me"}
	w.want(200, get)
	first := used()
	if !first.Equal(w.now().Truncate(time.Millisecond)) {
		t.Fatalf("used at %v", first)
	}
	w.advance(59 * time.Second)
	w.want(200, get)
	if !used().Equal(first) {
		t.Error("written down twice within a minute")
	}
	w.advance(2 * time.Second)
	w.want(200, get)
	if !used().After(first) {
		t.Error("not written down after a minute")
	}
}
