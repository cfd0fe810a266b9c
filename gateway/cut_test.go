package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"

	"github.com/coder/websocket"
)

// counted counts the open connections of a server.
type counted struct {
	net.Listener
	open atomic.Int64
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &countedConn{Conn: c, l: l}, nil
}

type countedConn struct {
	net.Conn
	l    *counted
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}

// Whatever is under way when a sandbox is cut off ends at once: quick requests,
// long ones, streams, uploads, WebSockets, clients that read or send nothing.
func TestCutUnderLoad(t *testing.T) {
	for round := range 3 {
		t.Run(fmt.Sprint(round), cutUnderLoad)
	}
}

func cutUnderLoad(t *testing.T) {
	w := newWorld(t)
	a, neighbour := w.newGuest(), w.newGuest()
	ln := &counted{Listener: a.listen(hutch.AgentPort)}
	mux := http.NewServeMux()
	mux.HandleFunc("/quick", func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "ok") })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() })
	mux.HandleFunc("/stream", func(rw http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 32<<10)
		for r.Context().Err() == nil {
			if _, err := rw.Write(buf); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/upload", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	mux.HandleFunc("/ws", echo)
	server := &http.Server{Handler: mux}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(ln) })
	defer func() { server.Close(); serving.Wait() }()
	other := neighbour.serve(0, &recorder{name: "neighbour"})
	auth := []string{"Authorization", "Bearer " + a.token()}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var started, told sync.WaitGroup
	var cutAt atomic.Int64
	late := func(what string) {
		if at := cutAt.Load(); at == 0 {
			t.Errorf("%s ended before the cut", what)
		} else if d := time.Since(time.Unix(0, at)); d > 3*time.Second {
			t.Errorf("%s ended %v after the cut", what, d)
		}
	}

	for range 8 { // quick ones, over and over, until they are told it is gone
		started.Add(1)
		told.Go(func() {
			first := true
			for {
				got, err := w.try(ctx, "GET", "", "/quick", nil, auth...)
				if err == nil && got.status == 200 {
					if first {
						first = false
						started.Done()
					}
					continue
				}
				if err != nil {
					// Its answer had begun when the sandbox was cut off.
					if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
						t.Errorf("quick: %v", err)
					}
					continue
				}
				if got.status != 404 || !strings.Contains(got.body, CodeSandboxNotFound) || !strings.Contains(got.body, "Sandbox "+string(a.id)+" not found") {
					t.Errorf("quick: %d %s", got.status, got.body)
				}
				return
			}
		})
	}
	for range 4 { // waiting for an answer
		told.Go(func() {
			got, err := w.try(ctx, "POST", "", "/slow", strings.NewReader("{}"), auth...)
			if err != nil || got.status != 404 {
				t.Errorf("slow: %d, %v", got.status, err)
			}
			late("slow")
		})
	}
	for i := range 4 { // in the midst of an answer; half of the clients do not read it
		started.Add(1)
		wg.Go(func() {
			c, err := net.Dial("tcp", w.front.Listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprintf(c, "GET /stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", a.token())
			if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
				t.Errorf("stream: %v", err)
			}
			started.Done()
			if i%2 == 0 {
				<-ctx.Done()
				return
			}
			io.Copy(io.Discard, c)
			late("stream")
		})
	}
	for i := range 4 { // in the midst of a request; half of the clients send nothing more
		started.Add(1)
		wg.Go(func() {
			pr, pw := io.Pipe()
			var sender sync.WaitGroup
			sender.Go(func() {
				_, err := pw.Write(make([]byte, 1<<20))
				started.Done()
				if i%2 == 0 {
					<-ctx.Done()
				}
				for err == nil && ctx.Err() == nil {
					_, err = pw.Write(make([]byte, 1<<10))
				}
			})
			got, err := w.try(ctx, "POST", "", "/upload", pr, auth...)
			if err == nil && got.status != 404 {
				t.Errorf("upload: %d", got.status)
			}
			late("upload")
			pr.Close()
			sender.Wait()
		})
	}
	for range 4 {
		started.Add(1)
		wg.Go(func() {
			ws, _, err := w.dialWS("", "/ws", auth...)
			if err != nil {
				t.Error(err)
				started.Done()
				return
			}
			defer ws.CloseNow()
			ws.Write(ctx, websocket.MessageText, []byte("x"))
			if _, _, err := ws.Read(ctx); err != nil {
				t.Error(err)
			}
			started.Done()
			if _, _, err := ws.Read(ctx); err == nil {
				t.Error("a WebSocket outlived the cut")
			}
			late("websocket")
		})
	}

	started.Wait()
	// As a kill does: the route first, then the cut.
	w.routes.set(a.id, netip.Addr{}, nil)
	cutAt.Store(time.Now().UnixNano())
	w.g.Cut(a.id)
	took := time.Since(time.Unix(0, cutAt.Load()))
	if took > time.Second {
		t.Errorf("cutting took %v", took)
	}
	// No byte passes any more: the guest is left alone, whatever the clients do.
	waitFor(t, func() bool { return ln.open.Load() == 0 })
	if got := w.do("GET", neighbour.host(other), "/", nil); got.body != "neighbour" {
		t.Error("the neighbour was cut", got)
	}
	waitFor(t, func() bool {
		w.g.mu.Lock()
		defer w.g.mu.Unlock()
		return w.g.lanes[a.id] == nil || w.g.lanes[a.id].active == 0
	})
	told.Wait()
	stop()
	wg.Wait()
}

// waitFor polls what another process or goroutine brings about.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatal("waited in vain")
		case <-tick.C:
		}
	}
}

// A request that found the route before the kill does not use it after.
func TestNoDialAfterCut(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	app := &recorder{name: "app"}
	port := a.serve(0, app)
	found, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.routes.mu.Lock()
	w.routes.hook = func(hutch.SandboxID) { once.Do(func() { close(found); <-proceed }) }
	w.routes.mu.Unlock()
	result := make(chan answer)
	go func() { result <- w.do("GET", a.host(port), "/", nil) }()
	<-found // it holds the address
	w.routes.set(a.id, netip.Addr{}, nil)
	w.g.Cut(a.id)
	close(proceed)
	if got := <-result; got.status != 404 {
		t.Errorf("answered %d %s", got.status, got.body)
	}
	if app.count() != 0 {
		t.Error("the request reached the killed sandbox")
	}
}

// After a pause the sandbox is told to be paused, and after a resume it is
// reached again, at another address too.
func TestCutIsNotForEver(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	block := make(chan struct{})
	port := a.serve(0, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/block" {
			close(block)
			<-r.Context().Done()
			return
		}
		io.WriteString(rw, "ok")
	}))
	result := make(chan answer)
	go func() { result <- w.do("GET", a.host(port), "/block", nil) }()
	<-block
	w.routes.set(a.id, netip.Addr{}, &hutch.Error{Kind: hutch.Conflict, Code: "SANDBOX_PAUSED", Msg: "paused"})
	w.g.Cut(a.id)
	if got := <-result; got.status != 409 || !strings.Contains(got.body, "SANDBOX_PAUSED") {
		t.Error(got)
	}
	w.routes.set(a.id, a.addr, nil)
	if got := w.do("GET", a.host(port), "/", nil); got.body != "ok" {
		t.Error(got)
	}
	w.g.Cut(a.id)
	w.g.Cut(a.id) // nothing to cut is nothing to do
	w.g.Cut("unknown")
	if got := w.do("GET", a.host(port), "/", nil); got.body != "ok" {
		t.Error(got)
	}
}

func TestCloseWaitsAndRefuses(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	entered := make(chan struct{})
	port := a.serve(0, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { close(entered); <-r.Context().Done() }))
	result := make(chan answer)
	go func() { result <- w.do("GET", a.host(port), "/", nil) }()
	<-entered
	w.g.Close()
	if got := <-result; got.status < 500 {
		t.Error(got)
	}
	if got := w.do("GET", a.host(port), "/", nil); got.status != 503 {
		t.Error(got)
	}
	w.g.Close()
}

// Pools of sandboxes that nobody visits are dropped.
func TestIdleLanesRetire(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	ln := &counted{Listener: a.listen(hutch.AgentPort)}
	server := &http.Server{Handler: &recorder{name: "agent"}}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(ln) })
	defer func() { server.Close(); serving.Wait() }()
	if got := w.do("GET", a.host(7777), "/health", nil); got.status != 200 {
		t.Fatal(got)
	}
	w.g.mu.Lock()
	l := w.g.lanes[a.id]
	w.g.mu.Unlock()
	waitFor(t, func() bool {
		w.g.mu.Lock()
		defer w.g.mu.Unlock()
		return l.active == 0 && l.timer != nil
	})
	w.g.retire(l) // what the timer does
	w.g.mu.Lock()
	left := len(w.g.lanes)
	w.g.mu.Unlock()
	if left != 0 {
		t.Error("the lane is still there")
	}
	waitFor(t, func() bool { return ln.open.Load() == 0 })
	if got := w.do("GET", a.host(7777), "/health", nil); got.status != 200 {
		t.Error(got)
	}
}

// The same over HTTP/2, where one connection carries many sandboxes: the cut
// ends the streams of one and leaves the others.
func TestCutOverHTTP2(t *testing.T) {
	w := newWorld(t)
	a, b := w.newGuest(), w.newGuest()
	port := a.serve(0, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			io.Copy(io.Discard, r.Body)
			io.WriteString(rw, "begun")
			http.NewResponseController(rw).Flush()
			<-r.Context().Done()
			return
		}
		buf := make([]byte, 32<<10)
		for {
			if _, err := rw.Write(buf); err != nil {
				return
			}
		}
	}))
	other := b.serve(0, &recorder{name: "b"})
	front := httptest.NewUnstartedServer(w.g)
	front.EnableHTTP2 = true
	front.StartTLS()
	defer front.Close()
	get := func(g *guest, port int, path string) *http.Response {
		res, err := front.Client().Get(front.URL + g.path(port) + path)
		if err != nil {
			t.Fatal(err)
		}
		if res.ProtoMajor != 2 {
			t.Fatal(res.Proto)
		}
		return res
	}
	waiting, unread := get(a, port, "/wait"), get(a, port, "/flood")
	w.routes.set(a.id, netip.Addr{}, nil)
	w.g.Cut(a.id)
	for _, res := range []*http.Response{waiting, unread} {
		if n, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Errorf("a stream ended well after the cut, %d bytes", n)
		}
		res.Body.Close()
	}
	res := get(b, other, "/")
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if string(body) != "b" || err != nil {
		t.Errorf("the neighbour: %q, %v", body, err)
	}
	res = get(a, port, "/")
	res.Body.Close()
	if res.StatusCode != 404 {
		t.Error(res.Status)
	}
}

// Requests to sandboxes that are not there leave nothing behind.
func TestUnknownSandboxesAreForgotten(t *testing.T) {
	w := newWorld(t)
	for range 50 {
		r, err := http.NewRequest(http.MethodGet, w.front.URL+"/sandboxes/"+string(hutch.NewSandboxID())+"/ports/80/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s", res.Status)
		}
	}
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	if n := len(w.g.lanes); n != 0 {
		t.Errorf("%d lanes are kept", n)
	}
}
