// Package gateway is the road of users' bytes: from an address, which is a
// token, a host name or a path, to a port of one guest. It owns the parsing of
// addresses, who may pass, what is taken off requests and answers on the way,
// and one pool of connections per sandbox that no other sandbox ever sees.
//
// It does not know how sandboxes are made or where they run: it asks [Routes]
// anew for every request, so that a sandbox whose end is ordered is unreachable
// from that moment. It never looks into what users send each other.
//
// Time limits for request headers and idle connections are the server's
// ([http.Server]), because it shares its listener with the control plane;
// bodies and answers have none here, because streams and terminals live long.
package gateway

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// Routes finds guests. It is asked for every request and its answer is not kept.
type Routes interface {
	// Route returns the address of a running sandbox. NotFound for one that
	// does not exist or is ordered gone; Conflict, with a code and a message
	// for the user, for one that is not running; every other error makes the
	// gateway answer 503.
	Route(ctx context.Context, id hutch.SandboxID) (netip.Addr, error)
}

// A Config says what a gateway serves.
type Config struct {
	Routes   Routes            // required
	TokenKey ed25519.PublicKey // required: checks tokens and signed links

	// Private reports whether the previews of a sandbox demand its token or a
	// signed link. nil: all are public.
	Private func(ctx context.Context, id hutch.SandboxID) bool

	// Domain is the wildcard domain whose names lead to sandboxes, with Region
	// as the label before it: <port>-<id>.<region>.<domain>. "" : none.
	Domain, Region string

	// Hosts are the host names that the path and the token form answer to,
	// "*.x" for all below x; none: every. It stops web sites that point a name
	// of theirs at this server.
	Hosts []string

	// MaxRequests is how many requests of one sandbox may be under way, so that
	// the visitors of one cannot use up this process. 0: [DefaultMaxRequests].
	MaxRequests int

	Log *slog.Logger     // required
	Now func() time.Time // nil: time.Now
}

// DefaultMaxRequests is [Config.MaxRequests] when it is 0.
const DefaultMaxRequests = 1024

// A Gateway carries requests to guests. Make one with [New] and close it.
type Gateway struct {
	cfg     Config
	proxy   *httputil.ReverseProxy
	handler http.Handler
	now     func() time.Time
	tokens  verified
	under   sync.WaitGroup // requests under way

	mu     sync.Mutex
	lanes  map[hutch.SandboxID]*lane
	closed bool
}

// New returns a gateway. Invalid if cfg lacks what is required.
func New(cfg Config) (*Gateway, error) {
	bad := func(msg string) (*Gateway, error) {
		return nil, &hutch.Error{Kind: hutch.Invalid, Op: "gateway.New", Msg: msg}
	}
	if cfg.Routes == nil || cfg.Log == nil || len(cfg.TokenKey) != ed25519.PublicKeySize {
		return bad("routes, a log and an Ed25519 public key are required")
	}
	cfg.Domain, cfg.Region = normalHost(cfg.Domain), strings.ToLower(cfg.Region)
	if cfg.Domain != "" && (cfg.Region == "" || strings.Contains(cfg.Region, ".")) {
		return bad("with a domain, the region must be one DNS label")
	}
	if cfg.MaxRequests == 0 {
		cfg.MaxRequests = DefaultMaxRequests
	}
	g := &Gateway{cfg: cfg, now: cfg.Now, lanes: map[hutch.SandboxID]*lane{}, tokens: verified{key: cfg.TokenKey}}
	if g.now == nil {
		g.now = time.Now
	}
	g.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      byLane{},
		FlushInterval:  -1,
		BufferPool:     &buffers{},
		ModifyResponse: modifyResponse,
		ErrorHandler:   g.carryFailed,
		ErrorLog:       slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	g.handler = api.Identify(cfg.Log, http.HandlerFunc(g.serve))
	return g, nil
}

// Match reports whether r is for a sandbox, and so for [Gateway.ServeHTTP],
// and not for the control plane: by its host, its path, or because it bears
// what looks like a sandbox's token. It says nothing about whether r is allowed.
func (g *Gateway) Match(r *http.Request) bool {
	if _, named, _ := g.locate(r); named {
		return true
	}
	if strings.HasPrefix(strings.TrimLeft(r.URL.Path, "/"), "v1/") {
		return false // the agent has no such paths; the control plane says it better
	}
	auth := r.Header.Values("Authorization")
	if len(auth) != 1 {
		return false
	}
	_, ok := sandboxToken(auth[0])
	return ok
}

// Cut ends every connection to and from the sandbox id that this gateway
// carries, WebSockets included, and forgets its pool. Call it after the order
// that makes the sandbox unreachable was kept (a kill, and also a pause or a
// stop), so that no request can find the way again: when Cut returns, no byte
// passes any more.
func (g *Gateway) Cut(id hutch.SandboxID) {
	g.mu.Lock()
	l := g.lanes[id]
	delete(g.lanes, id)
	if l != nil {
		l.stopTimerLocked()
	}
	g.mu.Unlock()
	if l != nil {
		l.cut()
	}
}

// Close cuts every sandbox, refuses what comes later and waits for the
// requests under way.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	lanes := g.lanes
	g.lanes = map[hutch.SandboxID]*lane{}
	for _, l := range lanes {
		l.stopTimerLocked()
	}
	g.mu.Unlock()
	for _, l := range lanes {
		l.cut()
	}
	g.under.Wait()
}

// ServeHTTP carries r to a guest, or answers why not.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) { g.handler.ServeHTTP(w, r) }

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	if err := g.carry(w, r); err != nil {
		g.refuse(w, r, err)
	}
}

// carry brings r to its guest and the answer back. An error means that nothing
// was written yet.
func (g *Gateway) carry(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodConnect || !strings.HasPrefix(r.URL.Path, "/") {
		return &hutch.Error{Kind: hutch.Invalid, Code: api.CodeMethodNotAllowed, Op: "gateway", Msg: "This method cannot be used here"}
	}
	to, named, err := g.locate(r)
	if err != nil {
		return err
	}
	if !named || to.form == byPath {
		if err := g.allowHost(r.Host); err != nil {
			return err
		}
	}
	t := &transit{w: w, in: r, rc: http.NewResponseController(w), target: to}
	t.body.ReadCloser = r.Body
	t.body.ended.Store(r.ContentLength == 0)
	if err := g.authorize(t, named); err != nil {
		return err
	}
	if to.form == byPath && to.bare && wantsHTML(r) {
		// Without the slash, relative links on the page would lead astray.
		http.Redirect(w, r, to.prefix+"/"+question(r.URL.RawQuery), http.StatusPermanentRedirect)
		return nil
	}
	if err := g.enter(t); err != nil {
		return err
	}
	defer g.leave(t)
	// The lane was entered before the route is asked for: whoever cuts after
	// the route is gone, cuts this request too.
	addr, err := g.route(r.Context(), t.id)
	if err != nil {
		return err
	}
	g.keep(t.lane)
	if err := g.admit(t); err != nil {
		return err
	}
	t.upstream = netip.AddrPortFrom(addr, t.port).String()
	out := r.WithContext(t.ctx)
	out.Body = &t.body
	g.proxy.ServeHTTP(w, out)
	return nil
}

// route asks for the way to a guest and makes errors presentable. Nothing that
// is known of a sandbox's end is told here: the caller may be anyone.
func (g *Gateway) route(ctx context.Context, id hutch.SandboxID) (netip.Addr, error) {
	addr, err := g.cfg.Routes.Route(ctx, id)
	switch {
	case err == nil && addr.IsValid():
		return addr.Unmap(), nil
	case err == nil:
		err = errors.New("the route has no address")
	}
	switch hutch.KindOf(err) {
	case hutch.NotFound:
		return netip.Addr{}, &hutch.Error{Kind: hutch.NotFound, Code: CodeSandboxNotFound, Op: "gateway", Msg: "Sandbox " + string(id) + " not found", Err: err}
	case hutch.Conflict, hutch.Unavailable, hutch.Canceled:
		return netip.Addr{}, err
	}
	return netip.Addr{}, &hutch.Error{Kind: hutch.Unavailable, Op: "gateway", Msg: "The way to the sandbox cannot be found now: try again", Err: err}
}

// buffers lends out copy buffers.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[bufferSize]byte)(p)) }
