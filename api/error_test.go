package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
)

// respond runs write behind Identify and returns the answer and the log.
func respond(t *testing.T, r *http.Request, write func(http.ResponseWriter, *http.Request, error), err error) (*httptest.ResponseRecorder, string) {
	t.Helper()
	var log bytes.Buffer
	w := httptest.NewRecorder()
	h := slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	Identify(slog.New(h), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { write(w, r, err) })).ServeHTTP(w, r)
	return w, log.String()
}

func object(t *testing.T, b []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	return m
}

func TestKinds(t *testing.T) {
	const lastKind = hutch.Canceled
	if len(kinds) != int(lastKind)+1 {
		t.Fatalf("the table has %d kinds", len(kinds))
	}
	for k, row := range kinds {
		if row.status < 400 || row.code == "" || (row.msg == "" && hutch.Kind(k) != hutch.Internal) {
			t.Errorf("kind %d: incomplete row %+v", k, row)
		}
		if got := StatusOf(&hutch.Error{Kind: hutch.Kind(k)}); got != row.status {
			t.Errorf("kind %d: status %d", k, got)
		}
		// The SDKs repeat what is 5xx or 429: nothing that stays wrong may be.
		switch hutch.Kind(k) {
		case hutch.Internal, hutch.Unavailable, hutch.Timeout, hutch.Canceled, hutch.Exhausted:
		default:
			if row.status >= 500 || row.status == 429 {
				t.Errorf("kind %d would be retried: %d", k, row.status)
			}
		}
	}
	if StatusOf(&hutch.Error{Kind: 200}) != 500 || StatusOf(errors.New("x")) != 500 {
		t.Error("an unknown error is not 500")
	}
	if got := StatusOf(fmt.Errorf("wrapped: %w", &hutch.Error{Kind: hutch.Invalid, Code: CodeMethodNotAllowed})); got != 405 {
		t.Errorf("405 became %d", got)
	}
}

func TestKindOfStatus(t *testing.T) {
	for k, row := range kinds {
		switch hutch.Kind(k) {
		case hutch.Unsupported, hutch.Canceled: // share a status with another kind
			continue
		}
		if got := KindOfStatus(row.status); got != hutch.Kind(k) {
			t.Errorf("%d is %d, not %d", row.status, got, k)
		}
	}
	for status, want := range map[int]hutch.Kind{
		405: hutch.Invalid, 418: hutch.Invalid, 408: hutch.Timeout, 410: hutch.NotFound, 501: hutch.Unsupported,
		502: hutch.Unavailable, 504: hutch.Timeout, 507: hutch.Internal, 302: hutch.Internal,
	} {
		if got := KindOfStatus(status); got != want {
			t.Errorf("%d is %d, not %d", status, got, want)
		}
	}
}

func TestEnvelopes(t *testing.T) {
	err := &hutch.Error{
		Kind: hutch.NotFound, Msg: "Sandbox not found", Err: errors.New("row 7 missing"),
		Details: map[string]any{"terminated_at": time.Date(2026, 1, 2, 3, 4, 5, 6_789_000, time.UTC), "path": "/x"},
	}
	details := map[string]any{"terminated_at": "2026-01-02T03:04:05.006Z", "path": "/x"}
	for _, c := range []struct {
		name, agent string
		write       func(http.ResponseWriter, *http.Request, error)
		nested      bool
		more        []string
	}{
		{"flat", "curl/8", WriteControl, false, nil},
		{"no agent", "", WriteControl, false, nil},
		{"javascript", "axios/1.7", WriteControl, false, nil},
		{"python", "hopx-python/0.1.0", WriteControl, true, nil},
		{"python without a version", "hopx-python/", WriteControl, true, nil},
		{"not python", "x hopx-python/1", WriteControl, false, nil},
		{"agent", "hopx-python/0.1.0", WriteAgent, false, []string{"timestamp", "path"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/v1/x", nil)
			r.Header.Set("User-Agent", c.agent)
			w, _ := respond(t, r, c.write, err)
			id := w.Header().Get("X-Request-ID")
			if w.Code != 404 || !validRequestID(id) || w.Header().Get("Content-Type") != "application/json" {
				t.Fatal(w.Code, w.Header())
			}
			m := object(t, w.Body.Bytes())
			want := map[string]any{"message": "Sandbox not found", "code": "RESOURCE_NOT_FOUND", "request_id": id, "details": details}
			same := func(m map[string]any) {
				for k, v := range want {
					if fmt.Sprint(m[k]) != fmt.Sprint(v) {
						t.Errorf("%s is %v, not %v", k, m[k], v)
					}
				}
			}
			same(m)
			if o, isObject := m["error"].(map[string]any); isObject != c.nested {
				t.Errorf("error is %v", m["error"])
			} else if c.nested {
				same(o)
			} else if m["error"] != "Sandbox not found" {
				t.Errorf("error is %v", m["error"])
			}
			if len(m) != 5+len(c.more) {
				t.Errorf("%d members: %v", len(m), m)
			}
			for _, k := range c.more {
				if s, _ := m[k].(string); s == "" {
					t.Errorf("%s is %v", k, m[k])
				}
			}
			if strings.Contains(w.Body.String(), "row 7") {
				t.Error("the cause is shown")
			}
		})
	}
}

// The Python SDK crashes on null details and null messages.
func TestNeverNull(t *testing.T) {
	for _, err := range []error{&hutch.Error{}, &hutch.Error{Kind: hutch.Forbidden}, &hutch.Error{Kind: hutch.Exhausted}, errors.New("x"), context.Canceled, nil} {
		for _, agent := range []string{"curl", "hopx-python/1"} {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("User-Agent", agent)
			w, _ := respond(t, r, WriteControl, err)
			m := object(t, w.Body.Bytes())
			if _, ok := m["details"].(map[string]any); !ok || m["message"] == "" || m["message"] == nil || m["code"] == "" {
				t.Errorf("%v: %v", err, m)
			}
			if o, ok := m["error"].(map[string]any); ok {
				if _, ok := o["details"].(map[string]any); !ok || o["message"] == "" {
					t.Errorf("%v: %v", err, o)
				}
			}
		}
	}
}

func TestInternalShowsNothing(t *testing.T) {
	secret := errors.New("password hunter2 at 10.0.0.7")
	for _, err := range []error{
		secret,
		fmt.Errorf("outer: %w", secret),
		&hutch.Error{Op: "store.X", Code: "hunter2", Msg: "hunter2", Details: map[string]any{"p": "hunter2"}, Err: secret},
		&hutch.Error{Kind: hutch.Unavailable, Msg: "Try again", Err: secret},
	} {
		for _, write := range []func(http.ResponseWriter, *http.Request, error){WriteControl, WriteAgent} {
			w, log := respond(t, httptest.NewRequest(http.MethodGet, "/", nil), write, err)
			id := w.Header().Get("X-Request-ID")
			if strings.Contains(w.Body.String(), "hunter2") || strings.Contains(w.Body.String(), "store.X") {
				t.Errorf("shown: %s", w.Body)
			}
			if w.Code == 500 && !strings.Contains(w.Body.String(), "under "+id) {
				t.Errorf("the message does not name the request: %s", w.Body)
			}
			if !strings.Contains(log, "hunter2") || !strings.Contains(log, id) {
				t.Errorf("the operator's log has neither cause nor id: %s", log)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		kind hutch.Kind
		wait any
		want string
	}{
		{hutch.Exhausted, 7, "7"},
		{hutch.Exhausted, 0.2, "1"},
		{hutch.Exhausted, 2.5, "3"},
		{hutch.Exhausted, -4, "1"},
		{hutch.Unavailable, 90 * time.Second, "90"},
		{hutch.Unavailable, int64(5), "5"},
		{hutch.Unavailable, 1e300, "86400"},
		{hutch.Unavailable, "soon", "2"},
		{hutch.Unavailable, nil, "2"},
		{hutch.NotFound, 7, ""},
	} {
		e := &hutch.Error{Kind: c.kind, Details: map[string]any{RetryAfterDetail: c.wait}}
		w, _ := respond(t, httptest.NewRequest(http.MethodGet, "/", nil), WriteControl, e)
		if got := w.Header().Get("Retry-After"); got != c.want {
			t.Errorf("%v %v: Retry-After %q", c.kind, c.wait, got)
		}
		if c.want != "" {
			d := object(t, w.Body.Bytes())["details"].(map[string]any)
			if fmt.Sprint(d[RetryAfterDetail]) != c.want {
				t.Errorf("%v %v: details %v", c.kind, c.wait, d)
			}
		}
		if e.Details[RetryAfterDetail] != c.wait {
			t.Error("the error itself was changed")
		}
	}
}

func TestUnauthenticated(t *testing.T) {
	w, _ := respond(t, httptest.NewRequest(http.MethodGet, "/", nil), WriteControl, &hutch.Error{Kind: hutch.Unauthenticated})
	if w.Code != 401 || w.Header().Get("WWW-Authenticate") != "Bearer" || !strings.Contains(w.Body.String(), "authentication") {
		t.Error(w.Code, w.Header(), w.Body)
	}
}

func TestErrorWithoutIdentify(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if RequestID(r) != "" {
		t.Error("an id from nowhere")
	}
	WriteControl(w, r, &hutch.Error{Kind: hutch.Invalid})
	id := w.Header().Get("X-Request-ID")
	if !validRequestID(id) || object(t, w.Body.Bytes())["request_id"] != id {
		t.Error(w.Header(), w.Body)
	}
}

func TestWriteJSONCannotEncode(t *testing.T) {
	w := httptest.NewRecorder()
	WriteJSON(w, httptest.NewRequest(http.MethodGet, "/", nil), 200, map[string]any{"a": make(chan int)})
	if m := object(t, w.Body.Bytes()); w.Code != 500 || m["code"] != CodeInternalError {
		t.Error(w.Code, w.Body)
	}
}

func TestIdentify(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, RequestID(r)) })
	good := NewRequestID()
	for _, c := range []struct {
		name string
		with func(*slog.Logger, http.Handler) http.Handler
		sent string
		kept bool
	}{
		{"identify ignores the caller's", Identify, good, false},
		{"adopt takes a good one", Adopt, good, true},
		{"adopt refuses another shape", Adopt, "req_" + strings.Repeat("a", 200), false},
		{"adopt refuses tricks", Adopt, "req_aaaaaaaaaaaaaaa\n", false},
		{"adopt makes one", Adopt, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("X-Request-ID", c.sent)
			c.with(slog.New(slog.DiscardHandler), h).ServeHTTP(w, r)
			got := w.Header().Get("X-Request-ID")
			if !validRequestID(got) || got != w.Body.String() || (got == c.sent) != c.kept {
				t.Errorf("%q, header %q", w.Body, got)
			}
		})
	}
}
