package image

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/net/publicsuffix"

	"github.com/hutch-sh/hutch"
)

// Credentials are a user's at one registry. They are sent to that registry,
// and to the token service it names on its own site, and nowhere else.
type Credentials struct {
	Username string
	Password string
}

// LogValue keeps credentials out of logs.
func (c Credentials) LogValue() slog.Value { return slog.StringValue("[credentials]") }

// String keeps credentials out of messages.
func (c Credentials) String() string { return "[credentials]" }

// GoString keeps credentials out of %#v.
func (c Credentials) GoString() string { return "[credentials]" }

func (c *Credentials) authenticator() authn.Authenticator {
	if c == nil || c.Username == "" && c.Password == "" {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password})
}

// A guard is the one way to a registry during a pull. The library above it has
// rules of its own about where credentials and redirects may go; the guard does
// not depend on them.
type guard struct {
	inner    *http.Transport
	registry string // host and port, as in request URLs
	plain    bool   // the registry is a local one that speaks plain HTTP

	mu    sync.Mutex
	realm *url.URL // the registry's token service, once it has named one that we accept
}

// guard returns the transport for one pull. The caller closes idle connections.
func (s *Store) guard(reg name.Registry) (*guard, error) {
	roots, err := s.trust()
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		DialContext:            publicDialer().DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots},
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  60 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
		ForceAttemptHTTP2:      true,
	}
	if s.o.AllowPrivate {
		t.DialContext = (&net.Dialer{Timeout: 15 * time.Second}).DialContext
		t.Proxy = http.ProxyFromEnvironment
	}
	return &guard{inner: t, registry: reg.RegistryStr(), plain: s.o.AllowPrivate && reg.Scheme() == "http"}, nil
}

var realmParam = regexp.MustCompile(`(?i)\brealm="([^"]*)"`)

// RoundTrip sends one request, redirects included as requests of their own.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.plain {
		return nil, &hutch.Error{Kind: hutch.Forbidden, Op: "image.Pull", Msg: "the registry leads to an address without TLS"}
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	out := req.Clone(ctx)
	out.URL.User = nil
	if out.Header.Get("Authorization") != "" && !g.trusted(out.URL) {
		out.Header.Del("Authorization")
	}
	out.Header.Del("Cookie")
	resp, err := g.inner.RoundTrip(out)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode == http.StatusUnauthorized && out.URL.Host == g.registry {
		g.learn(resp.Header.Values("WWW-Authenticate"), out.URL)
	}
	b := &idleBody{ReadCloser: resp.Body, cancel: cancel}
	b.timer = time.AfterFunc(time.Minute, func() { cancel(errors.New("no data for a minute")) })
	resp.Body = b
	return resp, nil
}

// trusted reports whether credentials may be sent to u.
func (g *guard) trusted(u *url.URL) bool {
	if u.Host == g.registry {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.realm != nil && u.Scheme == g.realm.Scheme && u.Host == g.realm.Host && u.Path == g.realm.Path
}

// learn notes the token service that the registry names, if it is one that the
// registry's credentials may go to: the registry itself, or on its site.
func (g *guard) learn(challenges []string, registry *url.URL) {
	for _, c := range challenges {
		m := realmParam.FindStringSubmatch(c)
		if m == nil {
			continue
		}
		u, err := url.Parse(m[1])
		if err != nil || u.Scheme != "https" || u.User != nil || !sameSite(u, registry) {
			continue
		}
		g.mu.Lock()
		g.realm = u
		g.mu.Unlock()
	}
}

// sameSite reports whether two hosts belong to one owner, as far as names
// tell: one domain below a public suffix, on the ordinary port. Addresses and
// local names have no owner that could be told.
func sameSite(a, b *url.URL) bool {
	if a.Port() != "" && a.Port() != "443" {
		return false
	}
	x, errX := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(a.Hostname()))
	y, errY := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(b.Hostname()))
	return errX == nil && errY == nil && x == y && net.ParseIP(a.Hostname()) == nil
}

// pullError classes an error of talking to a registry.
func pullError(err error) error {
	const op = "image.Pull"
	var he *hutch.Error
	if errors.As(err, &he) {
		return he
	}
	if k := hutch.KindOf(err); k != hutch.Internal {
		return &hutch.Error{Kind: k, Op: op, Msg: "the pull was given up", Err: err}
	}
	var te *transport.Error
	if errors.As(err, &te) {
		switch te.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return &hutch.Error{Kind: hutch.Forbidden, Op: op, Msg: "the registry denies access to the image: it does not exist, or the credentials are missing or wrong", Err: err}
		case http.StatusNotFound:
			return &hutch.Error{Kind: hutch.NotFound, Op: op, Msg: "the registry has no such image", Err: err}
		}
	}
	return &hutch.Error{Kind: hutch.Unavailable, Op: op, Msg: "the image cannot be fetched from its registry", Err: err}
}
