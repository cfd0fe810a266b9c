package gateway

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/internal/token"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	domain = "box.example.com"
	region = "eu1"
)

var pub, priv, _ = ed25519.GenerateKey(nil)

// routes are the routes of a test; hook runs before each answer.
type routes struct {
	mu    sync.Mutex
	addrs map[hutch.SandboxID]netip.Addr
	errs  map[hutch.SandboxID]error
	hook  func(hutch.SandboxID)
}

func (r *routes) Route(_ context.Context, id hutch.SandboxID) (netip.Addr, error) {
	r.mu.Lock()
	hook, addr, known, err := r.hook, r.addrs[id], false, r.errs[id]
	_, known = r.addrs[id]
	r.mu.Unlock()
	if hook != nil {
		hook(id)
	}
	switch {
	case err != nil:
		return netip.Addr{}, err
	case !known:
		return netip.Addr{}, &hutch.Error{Kind: hutch.NotFound, Msg: "Sandbox not found", Details: map[string]any{"reason": "secret"}}
	}
	return addr, nil
}

func (r *routes) set(id hutch.SandboxID, addr netip.Addr, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.addrs, id)
	delete(r.errs, id)
	if err != nil {
		r.errs[id] = err
	} else if addr.IsValid() {
		r.addrs[id] = addr
	}
}

// A world is a gateway behind a listener, and a control plane beside it.
type world struct {
	t       testing.TB
	g       *Gateway
	routes  *routes
	front   *httptest.Server
	private sync.Map // id -> true
	log     *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, routes: &routes{addrs: map[hutch.SandboxID]netip.Addr{}, errs: map[hutch.SandboxID]error{}}, log: &syncBuffer{}}
	cfg := Config{
		Routes: w.routes, TokenKey: pub, Domain: domain, Region: region,
		Private: func(_ context.Context, id hutch.SandboxID) bool { _, p := w.private.Load(id); return p },
		Log:     slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if w.g, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.front = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.g.Match(r) {
			w.g.ServeHTTP(rw, r)
			return
		}
		rw.WriteHeader(http.StatusTeapot) // the control plane
	}))
	w.front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	t.Cleanup(func() {
		w.g.Close()
		w.front.Close()
	})
	return w
}

var hosts atomic.Uint32

// newAddr returns a loopback address that nobody else uses, so that every
// sandbox has all ports for itself.
func newAddr() netip.Addr {
	pid, n := os.Getpid(), hosts.Add(1)
	return netip.AddrFrom4([4]byte{127, byte(64 + pid%128), byte(pid / 128), byte(n%254 + 1)})
}

// A guest is a sandbox with servers in it.
type guest struct {
	id   hutch.SandboxID
	addr netip.Addr
	w    *world
}

func (w *world) newGuest() *guest {
	g := &guest{id: hutch.NewSandboxID(), addr: newAddr(), w: w}
	w.routes.set(g.id, g.addr, nil)
	return g
}

func (g *guest) listen(port int) net.Listener {
	g.w.t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(g.addr.String(), strconv.Itoa(port)))
	if err != nil {
		g.w.t.Fatal(err)
	}
	return ln
}

// serve starts an HTTP server on a port (0: any) and returns the port.
func (g *guest) serve(port int, h http.Handler) int {
	g.w.t.Helper()
	ln := g.listen(port)
	s := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ln) })
	g.w.t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr).Port
}

// raw starts a TCP server that runs do for each connection.
func (g *guest) raw(port int, do func(net.Conn)) int {
	g.w.t.Helper()
	ln := g.listen(port)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { defer c.Close(); do(c) })
		}
	})
	g.w.t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().(*net.TCPAddr).Port
}

func (g *guest) host(port int) string { return fmt.Sprintf("%d-%s.%s.%s", port, g.id, region, domain) }
func (g *guest) path(port int) string { return fmt.Sprintf("/sandboxes/%s/ports/%d", g.id, port) }
func (g *guest) token() string        { return mint(g.id, time.Hour) }

func mint(id hutch.SandboxID, life time.Duration) string {
	now := time.Now()
	s, err := token.Mint(priv, string(id), 1, now.Add(-2*time.Hour), now.Add(life))
	if err != nil {
		panic(err)
	}
	return s
}

// An answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (w *world) do(method, host, path string, body io.Reader, headers ...string) answer {
	w.t.Helper()
	a, err := w.try(context.Background(), method, host, path, body, headers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) try(ctx context.Context, method, host, path string, body io.Reader, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, w.front.URL+path, body)
	if err != nil {
		return answer{}, err
	}
	if host != "" {
		req.Host = host
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	c := *w.front.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b)}, err
}

// rawRequest sends bytes as they are and reads one answer.
func (w *world) rawRequest(text string) (answer, error) {
	c, err := net.Dial("tcp", w.front.Listener.Addr().String())
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return answer{}, err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return answer{res.StatusCode, res.Header, string(b)}, err
}

// recorder answers every request and keeps what it saw.
type recorder struct {
	mu   sync.Mutex
	seen []*http.Request
	name string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	io.Copy(io.Discard, req.Body)
	r.mu.Lock()
	r.seen = append(r.seen, req.Clone(context.Background()))
	r.mu.Unlock()
	fmt.Fprint(w, r.name)
}

func (r *recorder) last() *http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		return nil
	}
	return r.seen[len(r.seen)-1]
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}
