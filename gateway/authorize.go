package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/internal/handshake"
	"github.com/hutch-sh/hutch/internal/token"
)

// keyPrefix begins every API key of the control plane.
const keyPrefix = "hopx_live_"

// publicAgentPaths are what the agent answers without a token.
var publicAgentPaths = []string{"/", "/health", "/info", "/ping", "/system"}

// authorize finds out what credentials of ours the request bears, completes
// the target of a request that names none, and refuses what may not pass to
// the agent. Previews are judged by admit, when the sandbox is known to exist.
func (g *Gateway) authorize(t *transit, named bool) error {
	t.query, t.links = cutLink(t.in.URL.RawQuery)
	creds := g.credentials(t.in.Header)
	if !named {
		if len(creds) != 1 || !creds[0].shaped {
			return errNoToken
		}
		if creds[0].err != nil {
			return badToken(creds[0].err)
		}
		t.id = hutch.SandboxID(creds[0].claims.Sandbox)
	}
	if t.port == hutch.AgentPort {
		return authorizeAgent(t, creds)
	}
	for _, c := range creds {
		switch {
		case !c.shaped:
			if !strings.Contains(c.value, keyPrefix) {
				t.keep = append(t.keep, c.value)
			}
		case c.err == nil && c.claims.Sandbox != string(t.id):
			return errOtherSandbox
		case c.err == nil:
			t.proven = true
		case errors.Is(c.err, token.ErrExpired):
			// Ours, once. It opens nothing and is nobody else's business.
		default:
			t.keep = append(t.keep, c.value) // a token of the user's own application
		}
	}
	return nil
}

func authorizeAgent(t *transit, creds []credential) error {
	// What the agent will make of the path decides, not how it is spelled.
	decoded, err := url.PathUnescape(t.path)
	if err != nil {
		return &hutch.Error{Kind: hutch.Invalid, Op: "gateway", Msg: "The path is not well-formed"}
	}
	if strings.HasPrefix(path.Clean("/"+decoded)+"/", handshake.Prefix) {
		return &hutch.Error{Kind: hutch.NotFound, Op: "gateway", Msg: "No such path"} // the host's own talk with the agent
	}
	upgrade := t.in.Header.Get("Upgrade") != ""
	// Without a body: a stranger who withholds one would hold his place for ever.
	public := !upgrade && t.in.ContentLength == 0 && (t.in.Method == http.MethodGet || t.in.Method == http.MethodHead) && slices.Contains(publicAgentPaths, t.path)

	err = errNoToken
	if len(creds) == 1 && creds[0].shaped {
		c := creds[0]
		switch {
		case c.err != nil:
			err = badToken(c.err)
		case c.claims.Sandbox != string(t.id):
			return errOtherSandbox
		default:
			err, t.proven = nil, true
			t.keep = []string{"Bearer " + c.token}
		}
	}
	if err != nil && !public {
		return err
	}
	if origin := t.in.Header.Values("Origin"); upgrade && len(origin) > 0 && !sameOrigin(origin, t.in.Host) {
		return &hutch.Error{Kind: hutch.Forbidden, Op: "gateway", Msg: "A WebSocket of the agent cannot be opened from another web site"}
	}
	return nil
}

// A credential is one value of Authorization, examined.
type credential struct {
	value  string
	shaped bool   // it is a Bearer in the shape of a sandbox's token
	token  string // set if shaped, like the following
	claims token.Claims
	err    error // why it is not a good token of this server
}

func (g *Gateway) credentials(h http.Header) []credential {
	var out []credential
	for _, v := range h.Values("Authorization") {
		c := credential{value: v}
		if c.token, c.shaped = sandboxToken(v); c.shaped {
			c.claims, c.err = g.tokens.claims(c.token, g.now())
		}
		out = append(out, c)
	}
	return out
}

// admit refuses visitors of a private preview who prove nothing.
func (g *Gateway) admit(t *transit) error {
	if t.port == hutch.AgentPort || t.proven || g.cfg.Private == nil || !g.cfg.Private(t.ctx, t.id) {
		return nil
	}
	if len(t.links) == 1 && verifyLink(g.cfg.TokenKey, t.id, t.port, t.links[0], g.now()) {
		return nil
	}
	return &hutch.Error{Kind: hutch.Unauthenticated, Code: api.CodeAuthenticationRequired, Op: "gateway",
		Msg: "This preview is private: send the sandbox's token as Authorization: Bearer, or use a signed link that has not expired"}
}

var (
	errNoToken = &hutch.Error{Kind: hutch.Unauthenticated, Code: api.CodeAuthenticationRequired, Op: "gateway",
		Msg: "The sandbox's token is missing: authentication required. Send it as Authorization: Bearer"}
	errOtherSandbox = &hutch.Error{Kind: hutch.Forbidden, Op: "gateway", Msg: "This token is for another sandbox than the address names"}
)

func badToken(err error) error {
	e := &hutch.Error{Kind: hutch.Unauthenticated, Code: api.CodeInvalidToken, Op: "gateway", Msg: "The token is not valid: authentication failed", Err: err}
	if errors.Is(err, token.ErrExpired) {
		e.Code, e.Msg = api.CodeTokenExpired, "The token has expired: get a new one with POST /v1/sandboxes/{id}/token/refresh"
	}
	return e
}

// sandboxToken returns the token in one Authorization value, if it is a Bearer
// and has the shape of a JWT. Whether it is ours only the signature tells.
func sandboxToken(value string) (string, bool) {
	scheme, tok, ok := strings.Cut(strings.TrimSpace(value), " ")
	tok = strings.TrimSpace(tok)
	if !ok || !strings.EqualFold(scheme, "Bearer") || !strings.HasPrefix(tok, "eyJ") ||
		strings.Count(tok, ".") != 2 || len(tok) > token.MaxLen || strings.ContainsAny(tok, " \t,") {
		return "", false
	}
	return tok, true
}

// sameOrigin reports whether the one Origin is that of host.
func sameOrigin(origins []string, host string) bool {
	if len(origins) != 1 {
		return false
	}
	u, err := url.Parse(origins[0])
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}
