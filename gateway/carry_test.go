package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"

	"github.com/coder/websocket"
)

func TestErrorsOfRoutes(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	for _, c := range []struct {
		err    error
		status int
		code   string
		msg    string
	}{
		{&hutch.Error{Kind: hutch.NotFound, Code: "RESOURCE_NOT_FOUND", Msg: "x", Details: map[string]any{"reason": "oom"}}, 404, CodeSandboxNotFound, "Sandbox " + string(a.id) + " not found"},
		{&hutch.Error{Kind: hutch.Conflict, Code: "SANDBOX_PAUSED", Msg: "Sandbox is paused"}, 409, "SANDBOX_PAUSED", "Sandbox is paused"},
		{&hutch.Error{Kind: hutch.Conflict, Code: "SANDBOX_STOPPED", Msg: "Sandbox is stopped"}, 409, "SANDBOX_STOPPED", "Sandbox is stopped"},
		{&hutch.Error{Kind: hutch.Unavailable, Msg: "later"}, 503, "SERVICE_UNAVAILABLE", "later"},
		{&hutch.Error{Kind: hutch.Internal, Msg: "disk on fire"}, 503, "SERVICE_UNAVAILABLE", "The way to the sandbox cannot be found now: try again"},
		{errors.New("disk on fire"), 503, "SERVICE_UNAVAILABLE", "The way to the sandbox cannot be found now: try again"},
		{context.DeadlineExceeded, 503, "SERVICE_UNAVAILABLE", "The way to the sandbox cannot be found now: try again"},
	} {
		w.routes.set(a.id, netip.Addr{}, c.err)
		for _, target := range []struct{ host, path string }{{"", "/execute"}, {a.host(7777), "/execute"}, {a.host(80), "/"}, {"", a.path(80) + "/"}} {
			got := w.do("GET", target.host, target.path, nil, "Authorization", "Bearer "+a.token())
			var e api.AgentErrorBody
			if err := json.Unmarshal([]byte(got.body), &e); err != nil {
				t.Fatal(got, err)
			}
			if got.status != c.status || e.Code != c.code || e.Error != c.msg || e.Details["reason"] != nil {
				t.Errorf("%v at %v: %d %+v", c.err, target, got.status, e)
			}
		}
	}
	// A route without an address is no route.
	w.routes.set(a.id, netip.Addr{}, nil)
	w.routes.mu.Lock()
	w.routes.addrs[a.id] = netip.Addr{}
	w.routes.mu.Unlock()
	if got := w.do("GET", a.host(80), "/", nil); got.status != 503 {
		t.Error(got)
	}
}

// What a guest can do to a request, and what its client is told.
func TestGuestsThatFail(t *testing.T) {
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			io.WriteString(c, text)
		}
	}
	w := newWorld(t)
	for _, c := range []struct {
		name      string
		do        func(net.Conn) // nil: nothing listens
		get, post string         // status and code of the agent
		preview   string
		okBody    string
	}{
		{"nothing listens", nil, "503 AGENT_UNREACHABLE", "503 AGENT_UNREACHABLE", "502 PORT_NOT_LISTENING", ""},
		{"closes at once", func(net.Conn) {}, "503 AGENT_UNREACHABLE", "409 AGENT_LOST or 503 AGENT_UNREACHABLE", "502 BAD_GATEWAY", ""},
		{"closes after the request", answer(""), "503 AGENT_UNREACHABLE", "409 AGENT_LOST", "502 BAD_GATEWAY", ""},
		{"half a head", answer("HTTP/1.1 200 OK\r\nX-"), "503 AGENT_UNREACHABLE", "409 AGENT_LOST", "502 BAD_GATEWAY", ""},
		{"not HTTP", answer("SSH-2.0-OpenSSH_9\r\n\r\n"), "503 AGENT_UNREACHABLE", "409 AGENT_LOST", "502 BAD_GATEWAY", ""},
		{"head too large", answer("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", maxHeaderBytes+10000) + "\r\n\r\n"), "503 AGENT_UNREACHABLE", "409 AGENT_LOST", "502 BAD_GATEWAY", ""},
		{"protocol changed unasked", answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "503 AGENT_UNREACHABLE", "409 AGENT_LOST", "502 BAD_GATEWAY", ""},
		{"two lengths", answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "503 AGENT_UNREACHABLE", "409 AGENT_LOST", "502 BAD_GATEWAY", ""},
		{"endless interim answers", func(c net.Conn) {
			http.ReadRequest(bufio.NewReader(c))
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"); err != nil {
					return
				}
			}
		}, "503 AGENT_UNREACHABLE", "409 AGENT_LOST", "502 BAD_GATEWAY", ""},
		{"one interim answer", answer("HTTP/1.1 103 Early Hints\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"), "200 ", "200 ", "200 ", "ok"},
	} {
		for _, target := range []struct {
			method, want string
			agent        bool
		}{{"GET", c.get, true}, {"POST", c.post, true}, {"GET", c.preview, false}, {"POST", c.preview, false}} {
			a := w.newGuest()
			port := 8080
			if target.agent {
				port = hutch.AgentPort
			}
			if c.do != nil {
				a.raw(port, c.do)
			}
			got := w.do(target.method, a.host(port), "/execute", strings.NewReader("body"), "Authorization", "Bearer "+a.token())
			var e api.AgentErrorBody
			if got.status >= 400 {
				if err := json.Unmarshal([]byte(got.body), &e); err != nil {
					t.Errorf("%s: %q: %v", c.name, got.body, err)
				}
			}
			if s := fmt.Sprint(got.status, " ", e.Code); !slices.Contains(strings.Split(target.want, " or "), s) {
				t.Errorf("%s, %s, agent %v: %s, want %s", c.name, target.method, target.agent, s, target.want)
			}
			if got.status < 400 && got.body != c.okBody {
				t.Errorf("%s: %q", c.name, got.body)
			}
			if got.header.Get("X-Evil") != "" {
				t.Errorf("%s: an interim header passed", c.name)
			}
		}
	}
}

func TestBrowsersGetPages(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	evil := "<script>alert(1)</script>"
	w.routes.set(hutch.SandboxID(anID), netip.Addr{}, &hutch.Error{Kind: hutch.Conflict, Code: "X", Msg: "paused " + evil})
	for _, c := range []struct {
		host, path string
		status     int
	}{
		{a.host(8080), "/" + evil, 502},
		{"", a.path(8080) + "/" + evil, 502},
		{"", "/sandboxes/" + anID + "/ports/80/", 409},
		{"80-" + string(hutch.NewSandboxID()) + "." + region + "." + domain, "/", 404},
	} {
		got := w.do("GET", c.host, c.path, nil, "Accept", "text/html", "User-Agent", evil)
		if got.status != c.status || !strings.HasPrefix(got.header.Get("Content-Type"), "text/html") || strings.Contains(got.body, "<script") ||
			got.header.Get("Content-Security-Policy") == "" || !strings.Contains(got.body, got.header.Get("X-Request-Id")) {
			t.Errorf("%+v: %d %v %s", c, got.status, got.header, got.body)
		}
		if c.status == 409 && !strings.Contains(got.body, "&lt;script&gt;") {
			t.Errorf("no message in %s", got.body)
		}
	}
	// The agent speaks JSON to everyone.
	if got := w.do("GET", a.host(7777), "/env", nil, "Accept", "text/html"); got.header.Get("Content-Type") != "application/json" {
		t.Error(got)
	}
}

// An agent that is started anew while a request comes is waited for.
func TestAgentRestartIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	var ports sync.WaitGroup
	ports.Add(1)
	timer := time.AfterFunc(5*agentRetry, func() {
		defer ports.Done()
		a.serve(hutch.AgentPort, &recorder{name: "agent"})
	})
	defer timer.Stop()
	got := w.do("POST", "", "/execute", strings.NewReader("{}"), "Authorization", "Bearer "+a.token())
	ports.Wait()
	if got.body != "agent" {
		t.Error(got)
	}
}

// Bytes pass as they come, in both directions.
func TestStreaming(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	more := make(chan struct{})
	gotFirst := make(chan string, 1)
	port := a.serve(0, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			io.WriteString(rw, "one\n")
			http.NewResponseController(rw).Flush()
			<-more
			io.WriteString(rw, "two\n")
			return
		}
		line, _ := bufio.NewReader(r.Body).ReadString('\n')
		gotFirst <- line
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(rw, n)
	}))
	req, _ := http.NewRequest("GET", w.front.URL+a.path(port)+"/down", nil)
	res, err := w.front.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	if line, err := r.ReadString('\n'); line != "one\n" || err != nil { // before the server has said all
		t.Fatal(line, err)
	}
	close(more)
	if rest, err := io.ReadAll(r); string(rest) != "two\n" || err != nil {
		t.Fatal(string(rest), err)
	}

	pr, pw := io.Pipe()
	var wg sync.WaitGroup
	const size = 8 << 20
	wg.Go(func() {
		io.WriteString(pw, "first\n")
		if line := <-gotFirst; line != "first\n" { // before we have said all
			t.Errorf("server read %q", line)
		}
		pw.Write(make([]byte, size))
		pw.Close()
	})
	got := w.do("POST", "", a.path(port)+"/up", pr)
	wg.Wait()
	if got.status != 200 {
		t.Error(got)
	}

	// A body is what it was: no compression is added or taken off.
	zip := a.serve(0, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "ae:", r.Header.Get("Accept-Encoding"))
	}))
	c := *w.front.Client()
	c.Transport = &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	res2, err := c.Get(w.front.URL + a.path(zip) + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res2.Body)
	res2.Body.Close()
	if string(b) != "ae:" {
		t.Errorf("%s", b)
	}
}

func echo(rw http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(rw, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"echo"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, b); err != nil {
			return
		}
	}
}

func (w *world) dialWS(host, path string, headers ...string) (*websocket.Conn, int, error) {
	o := &websocket.DialOptions{Host: host, HTTPHeader: http.Header{}, Subprotocols: []string{"echo"}, HTTPClient: w.front.Client()}
	for i := 0; i < len(headers); i += 2 {
		o.HTTPHeader.Add(headers[i], headers[i+1])
	}
	c, res, err := websocket.Dial(w.t.Context(), w.front.URL+path, o)
	status := 0
	if res != nil {
		status = res.StatusCode
	}
	return c, status, err
}

func TestWebSockets(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	a.serve(hutch.AgentPort, http.HandlerFunc(echo))
	port := a.serve(0, http.HandlerFunc(echo))
	auth := []string{"Authorization", "Bearer " + a.token()}
	front := w.front.Listener.Addr().String()
	for _, c := range []struct {
		name, host, path string
		headers          []string
		status           int
	}{
		{"agent by token", "", "/terminal", auth, 101},
		{"agent by host", a.host(7777), "/terminal", auth, 101},
		{"agent by host and suffix", a.host(7777), "/p.vms.hopx.dev/terminal", auth, 101},
		{"agent by path", "", a.path(7777) + "/terminal", auth, 101},
		{"agent without token", a.host(7777), "/terminal", nil, 401},
		{"agent's public path without token", a.host(7777), "/health", nil, 401},
		{"agent with a cookie", a.host(7777), "/terminal", []string{"Cookie", "token=" + a.token()}, 401},
		{"agent with a query token", a.host(7777), "/terminal?hutch_token=" + a.token() + "&token=" + a.token(), nil, 401},
		{"agent, own origin", "", "/terminal", append([]string{"Origin", "http://" + front}, auth...), 101},
		{"agent, own origin by host", a.host(7777), "/terminal", append([]string{"Origin", "https://" + a.host(7777)}, auth...), 101},
		{"agent, sibling origin", a.host(7777), "/terminal", append([]string{"Origin", "https://" + a.host(8080)}, auth...), 403},
		{"agent, foreign origin", "", "/terminal", append([]string{"Origin", "https://evil.example"}, auth...), 403},
		{"agent, null origin", "", "/terminal", append([]string{"Origin", "null"}, auth...), 403},
		{"agent, empty origin", "", "/terminal", append([]string{"Origin", ""}, auth...), 403},
		{"preview by host", a.host(port), "/ws", nil, 101},
		{"preview by path", "", a.path(port) + "/ws", []string{"Origin", "null"}, 101},
	} {
		ws, status, err := w.dialWS(c.host, c.path, c.headers...)
		if status != c.status {
			t.Errorf("%s: %d, %v", c.name, status, err)
		}
		if err != nil {
			continue
		}
		for _, msg := range []string{"hello", strings.Repeat("x", 20000)} {
			if err := ws.Write(t.Context(), websocket.MessageText, []byte(msg)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if _, b, err := ws.Read(t.Context()); err != nil || string(b) != msg {
				t.Errorf("%s: %q, %v", c.name, b, err)
			}
		}
		if ws.Subprotocol() != "echo" {
			t.Errorf("%s: subprotocol %q", c.name, ws.Subprotocol())
		}
		ws.Close(websocket.StatusNormalClosure, "")
	}
}

// Two sandboxes never share a connection, even when one gets the other's address.
func TestConnectionsAreNotShared(t *testing.T) {
	w := newWorld(t)
	a, b := w.newGuest(), w.newGuest()
	w.routes.set(b.id, a.addr, nil)
	var mu sync.Mutex
	used := map[string]map[string]bool{} // connection -> sandboxes that used it
	a.serve(hutch.AgentPort, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if used[r.RemoteAddr] == nil {
			used[r.RemoteAddr] = map[string]bool{}
		}
		used[r.RemoteAddr][r.Header.Get("X-Who")] = true
	}))
	for range 50 {
		for _, g := range []*guest{a, b} {
			if got := w.do("GET", "", "/env", nil, "Authorization", "Bearer "+g.token(), "X-Who", string(g.id)); got.status != 200 {
				t.Fatal(got)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for conn, who := range used {
		if len(who) != 1 {
			t.Errorf("connection %s served %v", conn, who)
		}
	}
	if len(used) != 2 {
		t.Errorf("%d connections for 2 sandboxes: they are not reused", len(used))
	}
}

func TestRequestsPerSandboxAreBounded(t *testing.T) {
	const limit, visitors = 4, 3 // the last place is the owner's
	w := newWorld(t, func(c *Config) { c.MaxRequests = limit })
	a, b := w.newGuest(), w.newGuest()
	entered, leave := make(chan struct{}), make(chan struct{})
	port := a.serve(0, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-leave }))
	other := b.serve(0, &recorder{name: "b"})
	var wg sync.WaitGroup
	for range visitors {
		wg.Go(func() { w.do("GET", a.host(port), "/", nil) })
	}
	for range visitors {
		<-entered
	}
	if got := w.do("GET", a.host(port), "/", nil); got.status != 503 || got.header.Get("Retry-After") == "" {
		t.Error(got)
	}
	wg.Go(func() { w.do("GET", a.host(port), "/", nil, "Authorization", "Bearer "+a.token()) })
	<-entered // the owner is served all the same
	if got := w.do("GET", b.host(other), "/", nil); got.body != "b" {
		t.Error("a neighbour was refused", got)
	}
	close(leave)
	wg.Wait()
	go func() { <-entered }()
	if got := w.do("GET", a.host(port), "/", nil); got.status != 200 {
		t.Error(got)
	}
}

func TestLocalCodesAreDistinct(t *testing.T) {
	codes := []string{CodeSandboxNotFound, CodeAgentUnreachable, CodeAgentLost, CodePortNotListening, CodeBadAnswer}
	slices.Sort(codes)
	if len(slices.Compact(codes)) != 5 {
		t.Fatal(codes)
	}
}
