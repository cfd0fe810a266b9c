package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hutch-sh/hutch"
)

// wire is a server that keeps the bytes of every request head.
type wire struct {
	mu    sync.Mutex
	heads []string
	conns int
}

func (s *wire) serve(c net.Conn) {
	s.mu.Lock()
	s.conns++
	s.mu.Unlock()
	r := bufio.NewReader(c)
	for {
		var head bytes.Buffer
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			head.WriteString(line)
			if line == "\r\n" {
				break
			}
		}
		s.mu.Lock()
		s.heads = append(s.heads, head.String())
		s.mu.Unlock()
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(&head, r)))
		if err != nil {
			return
		}
		switch {
		case len(req.TransferEncoding) > 0:
			io.Copy(io.Discard, httputil.NewChunkedReader(r))
			r.ReadString('\n') // the end of the trailers
		case req.ContentLength > 0:
			io.CopyN(io.Discard, r, req.ContentLength)
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-ID: theirs\r\n\r\nok")
	}
}

func (s *wire) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.heads
	s.heads = nil
	return h
}

// Raw requests with every trick, and what a preview's server must and must not see.
func TestHeaderSmuggling(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	app := &wire{}
	port := a.raw(0, app.serve)
	host := a.host(port)
	get := func(lines ...string) string {
		return "GET /p HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append(lines, "Connection: close", "", ""), "\r\n")
	}
	tok := a.token()
	for _, c := range []struct {
		name   string
		req    string
		status int      // 0: the server must not be reached
		has    []string // lines the server must see
		hasNot []string // text it must not see, in lower case
	}{
		{"plain", get("X-Own: 1", "User-Agent: me"), 200, []string{"X-Own: 1", "User-Agent: me", "Host: " + host, "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: " + host, "X-Forwarded-Proto: http"}, []string{"connection: upgrade"}},
		{"no user agent", get(), 200, nil, []string{"user-agent", "go-http"}},
		{"forged forwarding", get("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "X-Forwarded-Prefix: /evil", "X-Forwarded-Port: 666", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6", "X-Original-URL: /evil", "X-Rewrite-URL: /evil"),
			200, []string{"X-Forwarded-For: 127.0.0.1"}, []string{"6.6.6.6", "evil", "666", "https"}},
		{"underscores", get("X_Forwarded_For: 6.6.6.6", "x_forwarded-host: evil", "X.Forwarded.For: 6.6.6.6", "X_Hopx_Org: evil", "x_hutch_org: evil", "X_REAL_IP: 6.6.6.6"), 200, nil, []string{"6.6.6.6", "evil"}},
		{"our names", get("X-Hopx-Org: evil", "X-Hutch-Sandbox: evil", "x-hutch-anything: evil"), 200, nil, []string{"evil"}},
		{"connection names ours", get("Connection: X-Forwarded-For, X-Forwarded-Proto, X-Own", "X-Own: evil"), 200, []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http"}, []string{"evil"}},
		{"hop by hop", get("Keep-Alive: evil", "Proxy-Authorization: evil", "Proxy-Connection: evil", "TE: evil"), 200, nil, []string{"evil"}},
		{"api key", get("X-API-Key: " + apiKey), 200, nil, []string{"hopx_live"}},
		{"api key in any header", get("X_API_Key: "+apiKey, "Cookie: k="+apiKey, "X-Whatever: a "+apiKey), 200, nil, []string{"hopx_live"}},
		{"own key", get("X-API-Key: mine"), 200, []string{"X-Api-Key: mine"}, nil},
		{"token", get("Authorization: Bearer " + tok), 200, nil, []string{"authorization", "eyj"}},
		{"token, odd case", get("AUTHORIZATION: bEaReR   " + tok), 200, nil, []string{"authorization", "eyj"}},
		{"token beside own", get("Authorization: Bearer "+tok, "Authorization: Basic dTpw"), 200, []string{"Authorization: Basic dTpw"}, []string{"eyj"}},
		{"own beside token", get("Authorization: Basic dTpw", "Authorization: Bearer "+tok), 200, []string{"Authorization: Basic dTpw"}, []string{"eyj"}},
		{"own alone", get("Authorization: Digest x"), 200, []string{"Authorization: Digest x"}, nil},
		{"h2c upgrade", get("Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA", "Connection: Upgrade, HTTP2-Settings"), 200, nil, []string{"upgrade", "h2c", "http2-settings"}},
		{"unknown upgrade", get("Upgrade: evil/1", "Connection: Upgrade"), 200, nil, []string{"upgrade", "evil"}},
		{"two upgrades", get("Upgrade: websocket", "Upgrade: h2c", "Connection: Upgrade"), 200, nil, []string{"h2c"}},
		{"expect", "POST /p HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", 200, []string{"Content-Length: 2"}, []string{"expect"}},
		{"length and chunked", "POST /p HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", -1, nil, []string{"smuggled", "content-length: 5"}},
		{"two lengths", "POST /p HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 0, nil, nil},
		{"odd chunked", "POST /p HTTP/1.1\r\nHost: " + host + "\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0, nil, nil},
		{"two hosts", "GET /p HTTP/1.1\r\nHost: " + host + "\r\nHost: evil\r\n\r\n", 0, nil, nil},
		{"space before colon", "GET /p HTTP/1.1\r\nHost: " + host + "\r\nX-Own : 1\r\n\r\n", 0, nil, nil},
		{"null in value", "GET /p HTTP/1.1\r\nHost: " + host + "\r\nX-Own: a\x00b\r\n\r\n", 0, nil, nil},
		{"connect", "CONNECT evil:80 HTTP/1.1\r\nHost: " + host + "\r\n\r\n", 0, nil, nil},
		{"star", "OPTIONS * HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n", 0, nil, nil},
		{"absolute form", "GET http://" + host + "/p HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n", 200, []string{"Host: " + host}, []string{"evil"}},
		{"raw path", "GET /a%2Fb/../c//d;x=%41?q=%zz;r&hutch=1 HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n", 200, []string{"GET /a%2Fb/../c//d;x=%41?q=%zz;r&hutch=1 HTTP/1.1"}, nil},
	} {
		got, err := w.rawRequest(c.req)
		heads := app.take()
		if c.status == 0 {
			if len(heads) != 0 || (err == nil && got.status < 400 && c.name != "star") { // net/http answers that one
				t.Errorf("%s: answered %d, server saw %q", c.name, got.status, heads)
			}
			continue
		}
		if c.status > 0 && (err != nil || got.status != c.status || len(heads) != 1) {
			t.Errorf("%s: %d, %v, server saw %d requests", c.name, got.status, err, len(heads))
			continue
		}
		if len(heads) > 1 {
			t.Errorf("%s: server saw %d requests", c.name, len(heads))
		}
		for _, head := range heads {
			lines := strings.Split(head, "\r\n")
			for _, want := range c.has {
				if !slices.Contains(lines, want) {
					t.Errorf("%s: no line %q in\n%s", c.name, want, head)
				}
			}
			for _, bad := range c.hasNot {
				// The host has random letters and digits of its own.
				if strings.Contains(strings.ReplaceAll(strings.ToLower(head), host, ""), bad) {
					t.Errorf("%s: %q in\n%s", c.name, bad, head)
				}
			}
		}
		if c.status == 200 && len(got.header.Values("X-Request-Id")) != 1 {
			t.Errorf("%s: request ids %q", c.name, got.header.Values("X-Request-Id"))
		}
	}
}

// The agent keeps the token and loses everything else of ours.
func TestAgentSeesItsTokenOnly(t *testing.T) {
	w := newWorld(t)
	a := w.newGuest()
	agent := &wire{}
	a.raw(hutch.AgentPort, agent.serve)
	got := w.do("GET", "", "/env", nil, "Authorization", "Bearer "+a.token(), "X-API-Key", apiKey, "Cookie", "a=b", "X-Hutch-Org", "2", "X-Request-ID", "req_mine")
	head := agent.take()[0]
	if !strings.Contains(head, "Authorization: Bearer "+a.token()[:10]) {
		t.Errorf("no token in\n%s", head)
	}
	for _, bad := range []string{"hopx_live", "Cookie", "X-Hutch", "req_mine"} {
		if strings.Contains(head, bad) {
			t.Errorf("%s in\n%s", bad, head)
		}
	}
	id := got.header.Values("X-Request-Id")
	if len(id) != 1 || !strings.HasPrefix(id[0], "req_") || !strings.Contains(head, "X-Request-Id: "+id[0]) {
		t.Errorf("request id %q in\n%s", id, head)
	}
	// Two Authorization headers are one too many.
	raw, err := w.rawRequest(fmt.Sprintf("GET /env HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", a.host(7777), a.token(), a.token()))
	if err != nil || raw.status != 401 || len(agent.take()) != 0 {
		t.Error(raw, err)
	}
	// A public path without a good token shows the agent none at all.
	w.do("GET", a.host(7777), "/health", nil, "Authorization", "Bearer eyJx.y.z")
	if head := agent.take()[0]; strings.Contains(head, "Authorization") {
		t.Errorf("a bad token reached the agent:\n%s", head)
	}
}

func TestReservedNames(t *testing.T) {
	for name, want := range map[string]bool{"X-Forwarded-For": true, "x_forwarded_for": true, "X-Forwarded": true, "FORWARDED": true, "X-Hutch-A": true, "X-HOPX-A": true,
		"Authorization": false, "authorization": false, "Author_ization": false, "X-Real-Ip": true, "Forwarded-Not": false, "X-Hutchinson": false, "X-Request-Id": false, "Host": false, "": false} {
		if got := reserved(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
