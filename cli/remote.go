package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/api"
)

// A remote is a server reached through its API.
type remote struct {
	base string // without a slash at the end
	key  string
	http *http.Client
}

// maxAnswer bounds the answers that are read, in bytes.
const maxAnswer = 64 << 20

// newRemote returns the server at base. A socket, if any, is dialed instead of
// base's host.
func newRemote(base, socket, key string) (*remote, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usage("the server's address is %q; it must be like http://127.0.0.1:8080", base)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = killsAtOnce
	if socket != "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	return &remote{strings.TrimSuffix(base, "/"), key, &http.Client{
		Transport: t,
		Timeout:   time.Minute,
		// The API never redirects; following would hand the key to someone else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// local returns the server that announced itself in a data directory, after it
// answered. An error says why there is none.
func local(ctx context.Context, data string) (*remote, error) {
	s, err := ReadServerFile(data)
	if err != nil {
		return nil, err
	}
	r, err := newRemote(s.URL, s.Socket, s.AdminKey)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var h api.ServerHealth
	if err := r.call(ctx, http.MethodGet, "/health", &h); err != nil {
		return nil, fmt.Errorf("the server that was last announced (process %d) does not answer: %w", s.PID, err)
	}
	// A port that another program has taken over since: only the server of this
	// directory knows the key.
	var page api.SandboxList
	if err := r.call(ctx, http.MethodGet, "/v1/sandboxes?limit=1", &page); err != nil {
		return nil, fmt.Errorf("the server at %s is not the one of %s: %w", s.URL, data, err)
	}
	return r, nil
}

// A statusError is an answer of the API that is not a success.
type statusError struct {
	status    int
	msg       string
	requestID string
	wait      time.Duration // before trying again; 0: the server did not say
}

// Error returns the server's words.
func (e *statusError) Error() string {
	if e.requestID == "" {
		return e.msg
	}
	return fmt.Sprintf("%s (HTTP %d, request %s)", e.msg, e.status, e.requestID)
}

// call sends a request without a body and reads the answer into out.
func (r *remote) call(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, nil)
	if err != nil {
		return usage("%v", err)
	}
	if r.key != "" {
		req.Header.Set("X-API-Key", r.key)
	}
	res, err := r.http.Do(req)
	if err != nil {
		return unreachable(ctx, r.base, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return unreachable(ctx, r.base, err)
	}
	if res.StatusCode >= 300 {
		return refused(res, b)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return &failure{what: "what answers at " + r.base + " is not a Hutch server", code: ExitNetwork, err: err}
	}
	return nil
}

func unreachable(ctx context.Context, base string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// Without "Get "http://...": what the sentence before it says anyway.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	code := ExitNetwork
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		code = ExitTimeout
	}
	return &failure{
		what: "the server at " + base + " cannot be reached", err: err, code: code,
		next: "start it with hutch serve, or say where it is with --server or HUTCH_SERVER",
	}
}

func refused(res *http.Response, body []byte) error {
	e := &statusError{status: res.StatusCode, msg: res.Status}
	var shape api.ErrorBody
	if json.Unmarshal(body, &shape) == nil {
		e.msg = cmp.Or(shape.Message, e.msg)
		e.requestID = shape.RequestID
	}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 && s <= 60 {
		e.wait = time.Duration(s) * time.Second
	}
	if e.status == http.StatusUnauthorized {
		return &failure{what: "the server does not accept the key", err: e, code: ExitAuth,
			next: "put a valid key into HUTCH_API_KEY; hutch key create on the server's machine makes one"}
	}
	return e
}
