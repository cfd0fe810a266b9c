package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch"
)

const (
	dialTimeout = 5 * time.Second // a guest is one link away

	// agentIdle is how long an unused connection to an agent is kept: less
	// than the agent keeps it, so that it is never closed under a request.
	agentIdle = time.Minute
	// previewIdle is the same for users' servers, some of which close after
	// two seconds. A new connection costs little.
	previewIdle = time.Second

	// agentRestart is how long a refused connection to an agent is tried
	// again: its init starts it anew when it died.
	agentRestart = 2 * time.Second
	agentRetry   = 50 * time.Millisecond

	idlePerPort    = 64       // unused connections kept to one port
	maxHeaderBytes = 64 << 10 // of a guest's answer

	// laneIdle is how long a sandbox's pool is kept without a request.
	laneIdle = 2 * time.Minute
)

var errCut = errors.New("the sandbox was cut off")

// A lane is everything this process has open to one sandbox. It is never used
// for another, and is dead once cut.
type lane struct {
	id      hutch.SandboxID
	agent   *http.Transport
	preview *http.Transport
	ctx     context.Context // ends when the lane is cut
	end     context.CancelFunc

	// Guarded by Gateway.mu.
	active int
	found  bool        // the sandbox was there
	timer  *time.Timer // runs while active is 0

	mu       sync.Mutex
	isCut    bool
	conns    map[*laneConn]struct{}
	transits map[*transit]struct{}
}

// A transit is one request on its way.
type transit struct {
	w  http.ResponseWriter
	in *http.Request // as it came
	rc *http.ResponseController
	target
	query  string   // raw, without the link
	links  []string // values of the link parameter
	keep   []string // Authorization values that the guest may see
	proven bool     // the sandbox's own token came with it

	upstream string // address and port
	lane     *lane
	ctx      context.Context
	cancel   context.CancelFunc

	reached atomic.Bool // there was a connection
	sent    atomic.Bool // the guest may have read the request
	began   atomic.Bool // the answer has begun: nothing else can be answered
	body    sentBody
	late    bool // a deadline in the past was set on the answer; guarded by lane.mu
}

// A sentBody is the body that a client sends, and knows whether it was read to
// its end. From there on the server itself reads from the connection, to see
// the client go, and a deadline would hit that.
type sentBody struct {
	io.ReadCloser
	ended atomic.Bool
}

// Read reads from the client.
func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended.Store(true)
	}
	return n, err
}

type transitKey struct{}

func transitOf(ctx context.Context) *transit { return ctx.Value(transitKey{}).(*transit) }

// enter puts t on the lane of its sandbox, which is made if there is none.
func (g *Gateway) enter(t *transit) error {
	ctx, cancel := context.WithCancel(t.in.Context())
	t.ctx, t.cancel = context.WithValue(ctx, transitKey{}, t), cancel

	g.mu.Lock()
	defer g.mu.Unlock()
	refused := func(msg string) error {
		cancel()
		return &hutch.Error{Kind: hutch.Unavailable, Op: "gateway", Msg: msg}
	}
	if g.closed {
		return refused("The server is going down")
	}
	l := g.lanes[t.id]
	if l == nil {
		l = newLane(t.id)
		g.lanes[t.id] = l
	}
	limit := g.cfg.MaxRequests
	if !t.proven {
		limit -= limit / 4 // visitors do not take the last places of the owner
	}
	if l.active >= limit {
		return refused("Too many requests to this sandbox are under way: try again")
	}
	l.active++
	l.stopTimerLocked()
	g.under.Add(1)
	t.lane = l

	l.mu.Lock()
	defer l.mu.Unlock()
	l.transits[t] = struct{}{}
	if l.isCut { // between being forgotten and being cut
		cancel()
	}
	return nil
}

// leave takes t off its lane. A lane without requests is dropped after a while.
func (g *Gateway) leave(t *transit) {
	t.cancel()
	l := t.lane
	l.mu.Lock()
	delete(l.transits, t)
	if t.late {
		// The answer was complete before the cut: the client's connection is
		// good for other requests.
		_ = t.rc.SetWriteDeadline(time.Time{}) // fails on a connection that is closed, which is as good
	}
	l.mu.Unlock()

	if g.release(l) {
		l.cut()
	}
}

// release gives a request's place on l back. It reports whether the lane was
// forgotten and is the caller's to cut: one of a sandbox that is not there,
// of which anyone can name any number.
func (g *Gateway) release(l *lane) (forgotten bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.under.Done()
	l.active--
	switch {
	case l.active > 0 || g.lanes[l.id] != l:
		return false
	case !l.found:
		delete(g.lanes, l.id)
		return true
	}
	l.timer = time.AfterFunc(laneIdle, func() { g.retire(l) })
	return false
}

// keep marks a lane as one of a sandbox that is there.
func (g *Gateway) keep(l *lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.found = true
}

func (g *Gateway) retire(l *lane) {
	g.mu.Lock()
	idle := l.active == 0 && g.lanes[l.id] == l
	if idle {
		delete(g.lanes, l.id)
	}
	g.mu.Unlock()
	if idle {
		l.cut()
	}
}

// stopTimerLocked is called with Gateway.mu held.
func (l *lane) stopTimerLocked() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

func newLane(id hutch.SandboxID) *lane {
	l := &lane{id: id, conns: map[*laneConn]struct{}{}, transits: map[*transit]struct{}{}}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.agent = l.transport(agentIdle, l.dialAgent)
	l.preview = l.transport(previewIdle, l.dial)
	return l
}

func (l *lane) transport(idle time.Duration, dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	var p http.Protocols
	p.SetHTTP1(true)
	return &http.Transport{
		DialContext:            dial,
		Protocols:              &p,
		DisableCompression:     true, // what the client asked for is what it gets
		MaxIdleConns:           4 * idlePerPort,
		MaxIdleConnsPerHost:    idlePerPort,
		IdleConnTimeout:        idle,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ReadBufferSize:         16 << 10,
		WriteBufferSize:        16 << 10,
	}
}

// cut ends the lane: no dial succeeds and no byte passes any more.
func (l *lane) cut() {
	l.end()
	past := time.Unix(1, 0)
	l.mu.Lock()
	l.isCut = true
	conns := make([]*laneConn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	for t := range l.transits {
		t.cancel()
		// A client that does not read, or does not send, holds nothing up.
		// Errors: not every connection knows deadlines; those end otherwise.
		if t.began.Load() {
			t.late = t.rc.SetWriteDeadline(past) == nil
		}
		if !t.body.ended.Load() {
			_ = t.rc.SetReadDeadline(past) // fails on a connection that is closed, which is as good
		}
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	l.agent.CloseIdleConnections()
	l.preview.CloseIdleConnections()
}

var dialer = net.Dialer{
	Timeout: dialTimeout,
	// A guest that vanished says nothing: find out in half a minute.
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
}

// dial opens a connection that dies with the lane.
func (l *lane) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	c, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	lc := &laneConn{Conn: c, lane: l}
	l.mu.Lock()
	cut := l.isCut
	if !cut {
		l.conns[lc] = struct{}{}
	}
	l.mu.Unlock()
	if cut {
		return nil, errors.Join(errCut, c.Close())
	}
	return lc, nil
}

// dialAgent is dial that outlasts a restart of the agent. Nothing was sent yet,
// so trying again repeats nothing.
func (l *lane) dialAgent(ctx context.Context, network, addr string) (net.Conn, error) {
	give := time.NewTimer(agentRestart)
	defer give.Stop()
	again := time.NewTicker(agentRetry)
	defer again.Stop()
	for {
		c, err := l.dial(ctx, network, addr)
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
			return c, err
		}
		select {
		case <-again.C:
		case <-give.C:
			return nil, err
		case <-ctx.Done():
			return nil, err
		case <-l.ctx.Done():
			return nil, errCut
		}
	}
}

// A laneConn is a connection its lane can close.
type laneConn struct {
	net.Conn
	lane *lane
}

// Close closes the connection and takes it off its lane.
func (c *laneConn) Close() error {
	c.lane.mu.Lock()
	delete(c.lane.conns, c)
	c.lane.mu.Unlock()
	return c.Conn.Close()
}
