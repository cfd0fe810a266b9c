package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// sandboxPolicy gives a page of the path form an origin of its own, so that
// its scripts reach neither the control plane nor another preview as if they
// belonged there.
const sandboxPolicy = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"

// never are answers' headers by which a guest would speak for more than its
// own address.
var never = []string{"Alt-Svc", "Clear-Site-Data"}

// neverShared are those it may send from a host of its own, but not from the
// origin that all paths share.
var neverShared = []string{"Expect-Ct", "Nel", "Origin-Trial", "Public-Key-Pins", "Report-To", "Reporting-Endpoints",
	"Service-Worker-Allowed", "Strict-Transport-Security"}

// modifyResponse makes the answer that the client sees.
func modifyResponse(res *http.Response) error {
	t := transitOf(res.Request.Context())
	// In this order, and cut does it in the other: one of the two sees it.
	t.began.Store(true)
	if t.lane.ctx.Err() != nil {
		return errCut
	}
	h := res.Header
	if res.StatusCode == http.StatusSwitchingProtocols && !isWebSocket(res.Request.Header) {
		return errors.New("the guest changed the protocol unasked")
	}
	for _, name := range never {
		h.Del(name)
	}
	rewriteCookies(h, t)
	if t.port == hutch.AgentPort {
		h.Del("Set-Cookie") // no cookie opens the agent, and its origin is shared
	}
	if t.form != byHost {
		for _, name := range neverShared {
			h.Del(name)
		}
	}
	if t.form == byPath {
		h.Add("Content-Security-Policy", sandboxPolicy)
		if loc := h.Get("Location"); loc != "" {
			h.Set("Location", rewriteLocation(loc, t))
		}
		// The page's own requests come from the origin "null" now.
		if t.in.Header.Get("Origin") == "null" && t.port != hutch.AgentPort && !t.proven && len(t.links) == 0 && h.Get("Access-Control-Allow-Origin") == "" {
			h.Set("Access-Control-Allow-Origin", "*")
		}
	}
	// One request id: the agent took ours over, and a preview says its own or none.
	t.w.Header().Del(api.RequestIDHeader)
	if t.port == hutch.AgentPort {
		h.Set(api.RequestIDHeader, api.RequestID(t.in))
	}
	return nil
}

// rewriteCookies ties a preview's cookies to its own address: no Domain, which
// would show them to its neighbours, and in the path form a name and a path
// that are its own.
func rewriteCookies(h http.Header, t *transit) {
	cookies := h.Values("Set-Cookie")
	for i, c := range cookies {
		parts := strings.Split(c, ";")
		kept := parts[:1]
		for _, attr := range parts[1:] {
			k, v, _ := strings.Cut(attr, "=")
			switch strings.ToLower(strings.TrimSpace(k)) {
			case "domain":
				continue
			case "path":
				if v = strings.TrimSpace(v); t.form == byPath && strings.HasPrefix(v, "/") {
					attr = " Path=" + inPrefix(v, t.prefix)
				}
			}
			kept = append(kept, attr)
		}
		if t.form == byPath {
			kept[0] = cookieMark(t) + strings.TrimSpace(kept[0])
		}
		cookies[i] = strings.Join(kept, ";")
	}
}

// rewriteLocation keeps a redirect of a guest that names its own address, in
// any way it may know it, within the path form.
func rewriteLocation(loc string, t *transit) string {
	u, err := url.Parse(loc)
	if err != nil || u.Opaque != "" || u.User != nil {
		return loc
	}
	switch {
	case u.Host == "" && u.Scheme == "":
		if !strings.HasPrefix(u.Path, "/") {
			return loc // relative: right as it is
		}
	case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https":
		return loc
	case strings.EqualFold(u.Host, t.in.Host), u.Host == t.upstream:
		u.Scheme, u.Host = "", ""
	default:
		return loc // elsewhere
	}
	out := inPrefix(u.EscapedPath(), t.prefix) + question(u.RawQuery)
	if u.Fragment != "" {
		out += "#" + u.EscapedFragment()
	}
	return out
}

// inPrefix puts an absolute path below prefix, unless it is there already: a
// guest may have read X-Forwarded-Prefix.
func inPrefix(path, prefix string) string {
	if path == prefix || strings.HasPrefix(path, prefix+"/") {
		return path
	}
	return prefix + "/" + strings.TrimPrefix(path, "/")
}
