package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/store"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 1 << 20

// A call is one request that was let in.
type call struct {
	*http.Request
	id   string    // of the request
	key  store.Key // that authenticated it; zero on public routes
	body []byte    // at most maxBody
}

// org is who the caller acts for.
func (c *call) org() hutch.OrgID { return c.key.Org }

// A reply is a handler's answer: a value for JSON, or an [asset].
type reply struct {
	status int
	body   any
}

func ok(body any) (reply, error) { return reply{http.StatusOK, body}, nil }

// enter is where every request comes in: it bounds the time of its body, turns
// panics into answers, and clears its path for the mux.
func (s *Server) enter(w http.ResponseWriter, r *http.Request) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v) //nolint:forbidigo // net/http's own way to drop a connection
		}
		// Handlers write nothing, so nothing was written yet.
		s.fail(w, r, &hutch.Error{Op: "control.serve", Msg: "panic", Err: fmt.Errorf("%v\n%s", v, debug.Stack())})
	}()
	if r.ContentLength != 0 {
		// Whoever refuses the request without reading its body leaves it to
		// net/http to drain; this bounds that, too. readBody lifts it.
		noteDeadline(r, http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.bodyTime)))
	}
	if !allowedHost(s.cfg.AllowedHosts, r.Host) {
		s.fail(w, r, &hutch.Error{Kind: hutch.Forbidden, Op: "control.serve", Msg: "This server does not answer to this Host"})
		return
	}
	n, ok := normal(r)
	if !ok {
		s.fail(w, r, errNoRoute)
		return
	}
	s.mux.ServeHTTP(w, n)
}

// normal returns r with a path that [http.ServeMux] will not redirect: clients
// of HopX send "//v1/…", add slashes at will, and do not follow redirects. It
// reports false for a path with dot segments, which no client sends.
func normal(r *http.Request) (*http.Request, bool) {
	var b strings.Builder
	for seg := range strings.SplitSeq(r.URL.EscapedPath(), "/") {
		switch seg {
		case "":
			continue
		case ".", "..":
			return nil, false
		}
		b.WriteString("/" + seg)
	}
	raw := b.String()
	if raw == "" {
		raw = "/"
	}
	path, err := url.PathUnescape(raw)
	if err != nil {
		return nil, false
	}
	n := new(http.Request)
	*n = *r
	n.URL = new(url.URL)
	*n.URL = *r.URL
	n.URL.Path, n.URL.RawPath = path, raw
	return n, true
}

// allowedHost reports whether host, as sent, is one of allowed.
func allowedHost(allowed []string, host string) bool {
	if len(allowed) == 0 {
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	return slices.ContainsFunc(allowed, func(a string) bool {
		a = strings.ToLower(a)
		if below, ok := strings.CutPrefix(a, "*"); ok {
			return strings.HasPrefix(below, ".") && strings.HasSuffix(host, below)
		}
		return a == host
	})
}

// serve lets a request in, has it handled, and writes what comes of it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, rt route) {
	a, err := s.answer(w, r, rt)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.write(w, r, func() {
		if f, ok := a.body.(asset); ok {
			f.write(w, r)
			return
		}
		api.WriteJSON(w, r, a.status, a.body)
	})
}

// answer does all of a request but the writing.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, rt route) (reply, error) {
	c := &call{Request: r, id: api.RequestID(r)}
	if rt.limit != unlimited {
		var err error
		if c.key, err = s.authenticate(r); err != nil {
			return reply{}, err
		}
		if err := s.limits.take(w.Header(), c.key.ID, rt.limit, s.cfg.Now()); err != nil {
			return reply{}, err
		}
		s.touch(r.Context(), c.key)
	}
	var err error
	if c.body, err = readBody(w, r); err != nil {
		return reply{}, err
	}
	return rt.handle(s, c)
}

// readBody reads the whole body before anything is done, so that a slow or
// endless one costs nothing but its connection. Then the connection's reads are
// free again: net/http takes a read that fails for the caller having gone.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, &hutch.Error{
				Kind: hutch.TooLarge, Op: "control.readBody", Msg: fmt.Sprintf("The request's body is larger than %d bytes", maxBody),
				Details: map[string]any{"limit_bytes": maxBody},
			}
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			return nil, &hutch.Error{
				Kind: hutch.Timeout, Code: api.CodeRequestTimeout, Op: "control.readBody",
				Msg: "The request's body did not arrive in time", Err: err,
			}
		}
		return nil, &hutch.Error{Kind: hutch.Invalid, Op: "control.readBody", Msg: "The request's body cannot be read", Err: err}
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, &hutch.Error{Kind: hutch.Canceled, Op: "control.readBody", Err: err}
	}
	return b, nil
}

// fail answers with err.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.write(w, r, func() { api.WriteControl(w, r, err) })
}

// write bounds the time that a client may take to read what answer writes, and
// lifts the bound again, since the next request on the connection may be
// another's.
func (s *Server) write(w http.ResponseWriter, r *http.Request, answer func()) {
	rc := http.NewResponseController(w)
	noteDeadline(r, rc.SetWriteDeadline(time.Now().Add(s.answerTime)))
	answer()
	noteDeadline(r, rc.Flush())
	noteDeadline(r, rc.SetWriteDeadline(time.Time{}))
}

// noteDeadline logs why a connection could not be bounded or flushed: its client
// has gone. Where it is not supported there is no connection that could be held.
func noteDeadline(r *http.Request, err error) {
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		api.Log(r.Context()).Debug("connection lost", "error", err)
	}
}
