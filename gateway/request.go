package gateway

import (
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// byLane sends each request through the pool of its own sandbox.
type byLane struct{}

// RoundTrip implements [http.RoundTripper].
func (byLane) RoundTrip(out *http.Request) (*http.Response, error) {
	t := transitOf(out.Context())
	// A context of our own: it drops the proxy's forwarding of 1xx answers,
	// by which a guest could write to its client without limit.
	ctx := httptrace.WithClientTrace(t.ctx, &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { t.reached.Store(true) },
		WroteHeaders: func() { t.sent.Store(true) },
	})
	tr := t.lane.preview
	if t.port == hutch.AgentPort {
		tr = t.lane.agent
	}
	return tr.RoundTrip(out.WithContext(ctx))
}

// rewrite makes the request that the guest sees. Hop-by-hop headers are gone
// already, and with them whatever Connection named, so that nothing set here
// can be taken off again.
func rewrite(pr *httputil.ProxyRequest) {
	t := transitOf(pr.In.Context())
	out := pr.Out
	// The path was decoded once for the check of the agent's; here it was
	// either well-formed or is refused by the guest as it stands.
	p, err := url.PathUnescape(t.path)
	if err != nil {
		p = t.path
	}
	out.URL = &url.URL{Scheme: "http", Host: t.upstream, Path: p, RawPath: t.path, RawQuery: t.query}
	out.Host = pr.In.Host

	dropOurs(out.Header)
	out.Header.Del("Expect") // the server has said "100 Continue" when the body is first read
	delete(out.Header, "Authorization")
	if len(t.keep) > 0 {
		out.Header["Authorization"] = t.keep
	}
	if !isWebSocket(out.Header) {
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
	if ref := out.Header.Get("Referer"); ref != "" {
		out.Header.Set("Referer", cutLinkFrom(ref))
	}
	switch {
	case t.port == hutch.AgentPort:
		out.Header.Del("Cookie") // cookies never open the agent
		out.Header.Set(api.RequestIDHeader, api.RequestID(pr.In))
	case t.form == byPath:
		ownCookies(out.Header, t)
	}
	pr.SetXForwarded()
	if t.form == byPath {
		out.Header.Set("X-Forwarded-Prefix", t.prefix)
	}
}

// dropOurs takes off what only this gateway may say (where a request came
// from, and everything named after us), in every spelling that some server
// takes for the same name, and every header that carries an API key.
func dropOurs(h http.Header) {
	for name, values := range h {
		if reserved(name) {
			delete(h, name)
			continue
		}
		for _, v := range values {
			if strings.Contains(v, keyPrefix) {
				delete(h, name)
				break
			}
		}
	}
}

// reserved reports whether a header's name is one that clients must not set.
func reserved(name string) bool {
	n := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-' // "_" and "." among others: CGI cannot tell them apart
	}, name)
	for _, p := range []string{"x-forwarded", "x-hopx-", "x-hutch-", "x-real-ip", "x-original-", "x-rewrite-"} {
		if strings.HasPrefix(n, p) {
			return true
		}
	}
	// A spelling of Authorization that the checks did not see.
	return n == "forwarded" || (n == "authorization" && !strings.EqualFold(name, "Authorization"))
}

// isWebSocket reports whether h asks for a WebSocket, the only change of
// protocol that passes.
func isWebSocket(h http.Header) bool {
	u := h.Values("Upgrade")
	return len(u) == 1 && strings.EqualFold(u[0], "websocket")
}

// cutLinkFrom takes the link off a URL.
func cutLinkFrom(raw string) string {
	before, query, ok := strings.Cut(raw, "?")
	if !ok {
		return raw
	}
	query, fragment, _ := strings.Cut(query, "#")
	rest, _ := cutLink(query)
	out := before + question(rest)
	if fragment != "" {
		out += "#" + fragment
	}
	return out
}

// cookieMark begins the names of a preview's cookies in the path form. All
// previews share one origin there, and on a loopback address browsers share
// cookies between all ports: a guest sees the cookies it set and no other.
func cookieMark(t *transit) string {
	_, port, _ := strings.Cut(t.prefix, "/"+portsWord+"/")
	return "hutch-" + string(t.id) + "-" + port + "-"
}

func ownCookies(h http.Header, t *transit) {
	mark := cookieMark(t)
	var own []string
	for _, line := range h.Values("Cookie") {
		for c := range strings.SplitSeq(line, ";") {
			if c, ok := strings.CutPrefix(strings.TrimSpace(c), mark); ok {
				own = append(own, c)
			}
		}
	}
	h.Del("Cookie")
	if len(own) > 0 {
		h.Set("Cookie", strings.Join(own, "; "))
	}
}
