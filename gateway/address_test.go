package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch"
)

const anID = "sabcdefghij234567abcd"

func locator(t testing.TB) *Gateway {
	return newWorld(t).g
}

func TestLocate(t *testing.T) {
	g := locator(t)
	below := "." + region + "." + domain
	for _, c := range []struct {
		host, path string
		want       string // "form id port path prefix", "no" or "bad"
	}{
		{"7777-" + anID + below, "/health", "host 7777 /health"},
		{"8080-" + anID + below, "/", "host 8080 /"},
		{anID + below, "/x", "host 7777 /x"},
		{"8080-" + strings.ToUpper(anID) + strings.ToUpper(below) + ".:443", "/x", "host 8080 /x"},
		{"8080-" + anID + below, "/p.vms.hopx.dev", "host 8080 /"},
		{"8080-" + anID + below, "/p.vms.hopx.dev/", "host 8080 /"},
		{"8080-" + anID + below, "/p.vms.hopx.dev/a%2Fb", "host 8080 /a%2Fb"},
		{"8080-" + anID + below, "/p.vms.hopx.devil", "host 8080 /p.vms.hopx.devil"},
		{"8080-" + anID + below, "/sandboxes/" + anID + "/ports/1/", "host 8080 /sandboxes/" + anID + "/ports/1/"},
		{"0-" + anID + below, "/", "bad"},
		{"65536-" + anID + below, "/", "bad"},
		{"080-" + anID + below, "/", "bad"},
		{"+80-" + anID + below, "/", "bad"},
		{"-" + anID + below, "/", "bad"},
		{"80--" + anID + below, "/", "bad"},
		{"8080-" + anID + "x" + below, "/", "bad"},
		{"x-" + anID + below, "/", "bad"},
		{"8080-" + anID + ".us1." + domain, "/", "bad"},
		{"a.8080-" + anID + below, "/", "bad"},
		{"8080-" + anID + below + below, "/", "bad"},
		{"." + below, "/", "bad"},
		{"api." + domain, "/v1/sandboxes", "no"},
		{domain, "/", "no"},
		{"8080-" + anID + ".eu1.evil-" + domain, "/", "no"},
		{"8080-" + anID + below + ".evil.com", "/", "no"},
		{"127.0.0.1:8080", "/health", "no"},
		{"", "/", "no"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/8080/a/b", "path 8080 /a/b"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/7777/execute", "path 7777 /execute"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/8080", "path 8080 /"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/8080/", "path 8080 /"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/8080//x", "path 8080 //x"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/8080/../../x", "path 8080 /../../x"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/0/", "bad"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/99999/", "bad"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports/08/", "bad"},
		{"127.0.0.1", "/sandboxes/" + anID + "/ports//", "bad"},
		{"127.0.0.1", "/sandboxes/nope/ports/80/", "bad"},
		{"127.0.0.1", "/sandboxes/%73" + anID[1:] + "/ports/80/", "bad"},
		{"127.0.0.1", "/sandboxes/..%2f/ports/80/", "bad"},
		{"127.0.0.1", "/sandboxes/" + anID + "/port/80/", "no"},
		{"127.0.0.1", "/sandboxes/" + anID, "no"},
		{"127.0.0.1", "//sandboxes/" + anID + "/ports/80/", "no"},
		{"127.0.0.1", "/v1/sandboxes/" + anID + "/ports/80/", "no"},
		{domain, "/sandboxes/" + anID + "/ports/80/", "path 80 /"},
	} {
		u, err := url.Parse("http://x" + c.path)
		if err != nil {
			t.Fatal(err)
		}
		to, named, err := g.locate(&http.Request{Host: c.host, URL: u, Header: http.Header{}})
		got := "no"
		switch {
		case named && err != nil:
			got = "bad"
		case named && to.id != anID:
			got = "wrong id " + string(to.id)
		case named:
			got = fmt.Sprintf("%s %d %s", map[form]string{byHost: "host", byPath: "path"}[to.form], to.port, to.path)
		case err != nil:
			got = "error without a name"
		}
		if got != c.want {
			t.Errorf("%s %s: %s, want %s", c.host, c.path, got, c.want)
		}
	}
}

func FuzzLocate(f *testing.F) {
	below := "." + region + "." + domain
	for _, s := range []struct{ host, path string }{
		{"7777-" + anID + below, "/health"}, {anID + below, "/p.vms.hopx.dev/x"}, {"a.b" + below, "/"},
		{"127.0.0.1:1", "/sandboxes/" + anID + "/ports/80/%2e%2e/x?y"}, {"[::1]:80", "/sandboxes/x/ports/y/z"}, {domain, "*"},
	} {
		f.Add(s.host, s.path)
	}
	g := locator(f)
	f.Fuzz(func(t *testing.T, host, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		r := &http.Request{Method: "GET", Host: host, URL: u, Header: http.Header{}}
		to, named, err := g.locate(r)
		switch {
		case err != nil && !named:
			t.Fatal("an error without a name")
		case err != nil || !named:
			return
		case !to.id.Valid() || to.port == 0:
			t.Fatalf("%q %q: id %q, port %d", host, path, to.id, to.port)
		case u.Path != "" && u.Path[0] == '/' && !strings.HasPrefix(to.path, "/"):
			t.Fatalf("%q %q: path %q", host, path, to.path)
		}
		// What was found must be written in the address.
		where := strings.ToLower(host)
		if to.form == byPath {
			where = u.EscapedPath()
			if where != to.prefix+to.path && where != to.prefix {
				t.Fatalf("%q was cut into %q and %q", where, to.prefix, to.path)
			}
		} else if !strings.Contains(where, below) {
			t.Fatalf("%q is not below the domain", host)
		}
		if !strings.Contains(where, string(to.id)) {
			t.Fatalf("%q does not name %s", where, to.id)
		}
		if !g.Match(r) {
			t.Fatal("located but not matched")
		}
	})
}

func TestMatch(t *testing.T) {
	w := newWorld(t)
	jwt := mint(hutch.NewSandboxID(), 1)
	for _, c := range []struct {
		host, path, auth string
		want             bool
	}{
		{"127.0.0.1", "/health", "", false},
		{"127.0.0.1", "/health", "Bearer " + jwt, true},
		{"127.0.0.1", "/health", "bearer  " + jwt, true},
		{"127.0.0.1", "/execute", "Bearer eyJ.x.y", true},
		{"127.0.0.1", "/execute", "Bearer eyJ.x", false},
		{"127.0.0.1", "/execute", "Bearer hopx_live_abcdefghijkl.x.y", false},
		{"127.0.0.1", "/execute", "Basic eyJ.x.y", false},
		{"127.0.0.1", "/execute", "Bearer eyJ" + strings.Repeat("x", 5000) + ".x.y", false},
		{"127.0.0.1", "/v1/sandboxes", "Bearer " + jwt, false},
		{"127.0.0.1", "//v1/sandboxes", "Bearer " + jwt, false},
		{"7777-" + anID + "." + region + "." + domain, "/v1/sandboxes", "", true},
		{"garbage." + region + "." + domain, "/v1/sandboxes", "", true},
		{"api." + domain, "/v1/sandboxes", "", false},
		{"api." + domain, "/sandboxes/" + anID + "/ports/80/", "", true},
	} {
		u, _ := url.Parse("http://x" + c.path)
		r := &http.Request{Host: c.host, URL: u, Header: http.Header{}}
		if c.auth != "" {
			r.Header.Set("Authorization", c.auth)
		}
		if got := w.g.Match(r); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestNewRefusesBadConfig(t *testing.T) {
	good := Config{Routes: &routes{}, TokenKey: pub, Log: newWorld(t).g.cfg.Log}
	for name, change := range map[string]func(*Config){
		"no routes":        func(c *Config) { c.Routes = nil },
		"no key":           func(c *Config) { c.TokenKey = nil },
		"no log":           func(c *Config) { c.Log = nil },
		"domain alone":     func(c *Config) { c.Domain = "x.y" },
		"region of labels": func(c *Config) { c.Domain, c.Region = "x.y", "a.b" },
	} {
		c := good
		change(&c)
		if _, err := New(c); hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
