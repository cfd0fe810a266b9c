package gateway

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
)

func TestPathFormKeepsPagesApart(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	var seen *http.Request
	port := a.serve(0, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		seen = r
		h := rw.Header()
		h.Add("Set-Cookie", "sid=1; Path=/; Domain=.example.com; HttpOnly; SameSite=Lax")
		h.Add("Set-Cookie", "__Host-x=2; Secure; path=/deep")
		h.Add("Set-Cookie", "bare=3")
		h.Set("Content-Security-Policy", "default-src 'self'")
		h.Set("Clear-Site-Data", `"*"`)
		h.Set("Alt-Svc", `h3=":666"`)
		h.Set("Service-Worker-Allowed", "/")
		h.Set("Strict-Transport-Security", "max-age=1")
		h.Set("X-Own", "kept")
		if to := r.URL.Query().Get("to"); to != "" {
			h.Set("Location", to)
			rw.WriteHeader(302)
		}
	}))
	prefix := a.path(port)
	mark := "hutch-" + string(a.id) + "-" + fmt.Sprint(port) + "-"

	got := w.do("GET", "", prefix+"/page", nil, "Cookie", "other=evil; "+mark+"sid=1; hutch-"+string(a.id)+"-1-sid=neighbour; jupyter=secret; "+mark+"b=2")
	if seen.URL.Path != "/page" || seen.Header.Get("X-Forwarded-Prefix") != prefix {
		t.Errorf("server saw %s %v", seen.URL, seen.Header)
	}
	if c := seen.Header.Get("Cookie"); c != "sid=1; b=2" {
		t.Errorf("server saw cookies %q", c)
	}
	if csp := got.header.Values("Content-Security-Policy"); len(csp) != 2 || csp[1] != sandboxPolicy || strings.Contains(csp[1], "same-origin") {
		t.Errorf("policies %q", csp)
	}
	want := []string{mark + "sid=1; Path=" + prefix + "/; HttpOnly; SameSite=Lax", mark + "__Host-x=2; Secure; Path=" + prefix + "/deep", mark + "bare=3"}
	if c := got.header.Values("Set-Cookie"); strings.Join(c, "\n") != strings.Join(want, "\n") {
		t.Errorf("cookies %q\nwant %q", c, want)
	}
	for _, name := range []string{"Clear-Site-Data", "Alt-Svc", "Service-Worker-Allowed", "Strict-Transport-Security"} {
		if got.header.Get(name) != "" {
			t.Errorf("%s passed", name)
		}
	}
	if got.header.Get("X-Own") != "kept" {
		t.Error("own header lost")
	}

	front := w.front.Listener.Addr().String()
	for to, want := range map[string]string{
		"/login?next=%2F#a b":       prefix + "/login?next=%2F#a%20b",
		"/":                         prefix + "/",
		prefix + "/x":               prefix + "/x",
		"login":                     "login",
		"?q":                        "?q",
		"http://" + front + "/x":    prefix + "/x",
		"https://" + front:          prefix + "/",
		"//" + front + "/x":         prefix + "/x",
		"http://" + a.addr.String(): "http://" + a.addr.String(),
		"https://example.com/x":     "https://example.com/x",
		"//example.com/x":           "//example.com/x",
		"/a%2Fb":                    prefix + "/a%2Fb",
		"mailto:x@y":                "mailto:x@y",
		"javascript:alert(1)":       "javascript:alert(1)",
		fmt.Sprintf("http://%s:%d/x", a.addr, port): prefix + "/x",
	} {
		got := w.do("GET", "", prefix+"/r?to="+url.QueryEscape(to), nil)
		if loc := got.header.Get("Location"); got.status != 302 || loc != want {
			t.Errorf("redirect to %q: %q, want %q", to, loc, want)
		}
	}

	// Requests of a page that the policy put into an origin of its own.
	if got := w.do("GET", "", prefix+"/", nil, "Origin", "null"); got.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("a page cannot read its own server")
	}
	if got := w.do("GET", "", prefix+"/", nil, "Origin", "https://evil.example"); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("another site may read a preview")
	}
	w.private.Store(a.id, true)
	if got := w.do("GET", "", prefix+"/", nil, "Origin", "null", "Authorization", "Bearer "+a.token()); got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("anybody may read a private preview")
	}
}

func TestSlashRedirectOnlyForBrowsers(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	port := a.serve(0, &recorder{name: "app"})
	if got := w.do("GET", "", a.path(port)+"?q=1", nil, "Accept", "text/html,*/*"); got.status != 308 || got.header.Get("Location") != a.path(port)+"/?q=1" {
		t.Error(got)
	}
	if got := w.do("GET", "", a.path(port)+"?q=1", nil); got.body != "app" {
		t.Error(got)
	}
	if got := w.do("POST", "", a.path(port), nil, "Accept", "text/html"); got.body != "app" {
		t.Error(got)
	}
}

func TestHostFormLeavesPagesAlone(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	var seen *http.Request
	port := a.serve(0, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		seen = r
		rw.Header().Add("Set-Cookie", "sid=1; Path=/; Domain="+domain+"; Secure")
		rw.Header().Set("Clear-Site-Data", `"cookies"`)
		rw.Header().Set("Location", "/next")
		rw.Header().Set("Service-Worker-Allowed", "/")
		rw.Header().Set("X-Request-ID", "theirs")
		rw.WriteHeader(302)
	}))
	got := w.do("GET", a.host(port), "/p.vms.hopx.dev/x?y", nil, "Cookie", "a=1; b=2", "X-Request-ID", "mine")
	if seen.URL.String() != "/x?y" || seen.Header.Get("Cookie") != "a=1; b=2" || seen.Host != a.host(port) || seen.Header.Get("X-Request-ID") != "mine" {
		t.Errorf("server saw %s of %s, %v", seen.URL, seen.Host, seen.Header)
	}
	h := got.header
	if h.Get("Set-Cookie") != "sid=1; Path=/; Secure" || h.Get("Location") != "/next" || h.Get("Content-Security-Policy") != "" ||
		h.Get("Clear-Site-Data") != "" || h.Get("Service-Worker-Allowed") != "/" || len(h.Values("X-Request-ID")) != 1 || h.Get("X-Request-ID") != "theirs" {
		t.Errorf("answer %v", h)
	}
}

// A real cookie jar keeps two previews on one origin apart.
func TestCookieJarsDoNotMix(t *testing.T) {
	w := newWorld(t)
	a, b := w.newGuest(), w.newGuest()
	app := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/login" {
			http.SetCookie(rw, &http.Cookie{Name: "sid", Value: r.URL.Query().Get("v"), Path: "/"})
		}
		c, _ := r.Cookie("sid")
		fmt.Fprintf(rw, "%v %d", c, len(r.Cookies()))
	}
	pa, pb := a.serve(0, http.HandlerFunc(app)), b.serve(0, http.HandlerFunc(app))
	jar, _ := cookiejar.New(nil)
	client := &http.Client{Jar: jar, Transport: w.front.Client().Transport}
	get := func(path string) string {
		res, err := client.Get(w.front.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		buf := make([]byte, 200)
		n, _ := res.Body.Read(buf)
		return string(buf[:n])
	}
	get(a.path(pa) + "/login?v=A")
	get(b.path(pb) + "/login?v=B")
	if got := get(a.path(pa) + "/deep/er"); got != "sid=A 1" {
		t.Errorf("A sees %q", got)
	}
	if got := get(b.path(pb) + "/"); got != "sid=B 1" {
		t.Errorf("B sees %q", got)
	}
}
