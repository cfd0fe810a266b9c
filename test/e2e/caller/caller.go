// Package caller speaks to an installation of Hutch as any program with a key
// would: plain HTTP, nothing retried, nothing interpreted. Tests and benchmarks
// use it where a client's own behaviour would hide the server's. It knows the
// public contract only and must not import the server.
package caller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A Caller is someone with a credential. The zero Caller is useless; fill URL.
type Caller struct {
	URL    string // of the installation, without a trailing slash
	Key    string // API key; "" sends none
	Bearer bool   // send the key as a bearer token instead of X-API-Key
	Agent  string // User-Agent; "" is this package's own
	HTTP   *http.Client
}

// patience is how long any one request may take.
const patience = 2 * time.Minute

// Fresh is a client that opens a connection for each request, as HopX's
// JavaScript SDK does, and never follows a redirect or a proxy.
var Fresh = &http.Client{
	Transport:     transport(true),
	CheckRedirect: noRedirect,
	Timeout:       patience,
}

// Kept is a client that keeps connections for the next request.
func Kept() *http.Client {
	return &http.Client{Transport: transport(false), CheckRedirect: noRedirect, Timeout: patience}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func transport(fresh bool) *http.Transport {
	return &http.Transport{
		DisableKeepAlives:   fresh,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 64,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	}
}

// An Answer is one response, read to its end.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	Took   time.Duration // from the first byte of the request to the last of the answer
}

// Field returns a member of a JSON object body by its path ("details.reason"),
// or nil.
func (a Answer) Field(path string) any {
	var v any
	if json.Unmarshal(a.Body, &v) != nil {
		return nil
	}
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// Text is a member of a JSON object body as a string; "" if it is not one.
func (a Answer) Text(path string) string {
	s, _ := a.Field(path).(string)
	return s
}

// String says the answer as a log line.
func (a Answer) String() string {
	body := a.Body
	if len(body) > 600 {
		body = append(body[:600:600], " …"...)
	}
	return fmt.Sprintf("%d in %v: %s", a.Status, a.Took.Round(time.Millisecond), body)
}

// Do makes one request. body may be nil, a string, bytes, a reader, or anything
// JSON can hold. Headers come in pairs; an empty value removes a header.
func (c Caller) Do(ctx context.Context, method, path string, body any, headers ...string) (Answer, error) {
	var r io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
		kind = ""
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	case io.Reader:
		r, kind = b, "application/octet-stream"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return Answer{}, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, r)
	if err != nil {
		return Answer{}, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if c.Agent != "" {
		req.Header.Set("User-Agent", c.Agent)
	}
	switch {
	case c.Key == "":
	case c.Bearer:
		req.Header.Set("Authorization", "Bearer "+c.Key)
	default:
		req.Header.Set("X-API-Key", c.Key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	client := c.HTTP
	if client == nil {
		client = Fresh
	}
	begin := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return Answer{Took: time.Since(begin)}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, data, time.Since(begin)}, err
}

// A Sandbox is one that this caller made or found.
type Sandbox struct {
	Caller Caller
	ID     string
	Token  string
	Host   string // where its agent is reached
}

// Create makes a sandbox; fields go into the request beside the template's name.
func (c Caller) Create(ctx context.Context, template string, fields map[string]any) (*Sandbox, Answer, error) {
	body := map[string]any{"template_name": template}
	for k, v := range fields {
		body[k] = v
	}
	a, err := c.Do(ctx, http.MethodPost, "/v1/sandboxes", body)
	if err != nil {
		return nil, a, err
	}
	if a.Status != http.StatusCreated {
		return nil, a, fmt.Errorf("create: %s", a)
	}
	return &Sandbox{Caller: c, ID: a.Text("id"), Token: a.Text("auth_token"), Host: a.Text("public_host")}, a, nil
}

// Agent makes one request to the sandbox's agent with its token.
func (s *Sandbox) Agent(ctx context.Context, method, path string, body any, headers ...string) (Answer, error) {
	as := s.Caller
	as.URL, as.Key, as.Bearer = strings.TrimSuffix(s.Host, "/"), s.Token, true
	return as.Do(ctx, method, path, body, headers...)
}

// A Result is what a command did.
type Result struct {
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	ExitCode int    `json:"exit_code"`
	Success  bool   `json:"success"`
}

// Shell runs a line with bash. Its failing is a result, not an error.
func (s *Sandbox) Shell(ctx context.Context, line string, timeout time.Duration) (Result, error) {
	var r Result
	a, err := s.Agent(ctx, http.MethodPost, "/commands/run", map[string]any{
		"command": "bash", "args": []string{"-c", line}, "timeout": int(timeout.Seconds()), "workdir": "/",
	})
	if err != nil {
		return r, err
	}
	if a.Status != http.StatusOK {
		return r, fmt.Errorf("run %q: %s", line, a)
	}
	return r, json.Unmarshal(a.Body, &r)
}

// Start runs a line with bash in the background and returns its process id.
func (s *Sandbox) Start(ctx context.Context, line string) (string, error) {
	a, err := s.Agent(ctx, http.MethodPost, "/commands/background", map[string]any{
		"command": "bash", "args": []string{"-c", line}, "timeout": 3600, "workdir": "/",
	})
	if err != nil {
		return "", err
	}
	if a.Status != http.StatusOK {
		return "", fmt.Errorf("start %q: %s", line, a)
	}
	return a.Text("process_id"), nil
}

// Verb posts to one of the sandbox's verbs: kill, pause, resume, stop, start.
func (s *Sandbox) Verb(ctx context.Context, verb string) (Answer, error) {
	return s.Caller.Do(ctx, http.MethodPost, "/v1/sandboxes/"+s.ID+"/"+verb, nil)
}

// Kill ends the sandbox; anything but a 200 is an error.
func (s *Sandbox) Kill(ctx context.Context) (Answer, error) {
	a, err := s.Verb(ctx, "kill")
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("kill %s: %s", s.ID, a)
	}
	return a, err
}

// Get looks at the sandbox.
func (s *Sandbox) Get(ctx context.Context) (Answer, error) {
	return s.Caller.Do(ctx, http.MethodGet, "/v1/sandboxes/"+s.ID, nil)
}

// List returns the ids of all sandboxes the caller has, over all pages. query
// may filter ("status=paused").
func (c Caller) List(ctx context.Context, query string) ([]string, error) {
	var ids []string
	for cursor := ""; ; {
		q := "limit=1000&" + query
		if cursor != "" {
			q += "&cursor=" + url.QueryEscape(cursor)
		}
		a, err := c.Do(ctx, http.MethodGet, "/v1/sandboxes?"+strings.TrimSuffix(q, "&"), nil)
		if err != nil {
			return ids, err
		}
		var page struct {
			Data    []struct{ ID string }
			HasMore bool   `json:"has_more"`
			Next    string `json:"next_cursor"`
		}
		if a.Status != http.StatusOK {
			return ids, fmt.Errorf("list: %s", a)
		}
		if err := json.Unmarshal(a.Body, &page); err != nil {
			return ids, err
		}
		for _, s := range page.Data {
			ids = append(ids, s.ID)
		}
		if !page.HasMore {
			return ids, nil
		}
		if page.Next == "" || page.Next == cursor {
			return ids, errors.New("list: more pages but no way to them")
		}
		cursor = page.Next
	}
}
