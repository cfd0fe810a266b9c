package api

import (
	"errors"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
)

// Codes of the control plane, which are also the defaults of the agent.
const (
	CodeAuthenticationRequired = "AUTHENTICATION_REQUIRED"
	CodeInvalidToken           = "INVALID_TOKEN"
	CodeInvalidRequest         = "INVALID_REQUEST"
	CodeInvalidJSON            = "INVALID_JSON"
	CodeResourceNotFound       = "RESOURCE_NOT_FOUND"
	CodeMethodNotAllowed       = "METHOD_NOT_ALLOWED"
	CodeConflict               = "CONFLICT"
	CodeForbidden              = "FORBIDDEN"
	CodePaymentRequired        = "PAYMENT_REQUIRED"
	CodeRequestTooLarge        = "REQUEST_TOO_LARGE"
	CodeRateLimitExceeded      = "RATE_LIMIT_EXCEEDED"
	CodeNotSupported           = "NOT_SUPPORTED"
	CodeServiceUnavailable     = "SERVICE_UNAVAILABLE"
	CodeTimeout                = "TIMEOUT"
	CodeRequestTimeout         = "REQUEST_TIMEOUT" // the request itself came too slowly
	CodeSandboxLimitReached    = "SANDBOX_LIMIT_REACHED"
	CodeExecutionTimeout       = "EXECUTION_TIMEOUT"
	CodeInternalError          = "INTERNAL_ERROR"
)

// RetryAfterDetail is the key in details under which the wait before the next
// try stands, in seconds. It is the only hint the Python SDK honours; the
// Retry-After header is made from it.
const RetryAfterDetail = "retry_after_seconds"

// defaultRetryAfter is sent with 429 and 503 when the error names no wait.
const defaultRetryAfter = 2

// kinds is the one table between kinds of error and HTTP.
//
// Unsupported is 400 and not 501, because the SDKs repeat every 5xx. Canceled is
// 503: if the caller went away nobody reads it, and if it is still there this
// server is going down.
var kinds = [...]struct {
	status int
	code   string
	msg    string // when the error brings none
}{
	hutch.Internal:        {http.StatusInternalServerError, CodeInternalError, ""},
	hutch.Invalid:         {http.StatusBadRequest, CodeInvalidRequest, "The request is not valid"},
	hutch.Unauthenticated: {http.StatusUnauthorized, CodeAuthenticationRequired, "A valid credential is needed: authentication required"},
	hutch.Forbidden:       {http.StatusForbidden, CodeForbidden, "This credential does not allow this"},
	hutch.Unpaid:          {http.StatusPaymentRequired, CodePaymentRequired, "Credits are used up"},
	hutch.NotFound:        {http.StatusNotFound, CodeResourceNotFound, "Resource not found"},
	hutch.Conflict:        {http.StatusConflict, CodeConflict, "The resource is in a state that does not allow this"},
	hutch.TooLarge:        {http.StatusRequestEntityTooLarge, CodeRequestTooLarge, "The request is larger than allowed"},
	hutch.Exhausted:       {http.StatusTooManyRequests, CodeRateLimitExceeded, "Rate limit exceeded"},
	hutch.Unsupported:     {http.StatusBadRequest, CodeNotSupported, "This is not offered here"},
	hutch.Unavailable:     {http.StatusServiceUnavailable, CodeServiceUnavailable, "The service is temporarily unavailable; try again"},
	hutch.Timeout:         {http.StatusGatewayTimeout, CodeTimeout, "No answer in time"},
	hutch.Canceled:        {http.StatusServiceUnavailable, CodeServiceUnavailable, "The request was given up before it was done"},
}

// codes lists the codes whose status is not that of their kind. A quota is 403
// and not 429: waiting does not help, and the Python SDK would repeat a 429.
var codes = map[string]int{
	CodeMethodNotAllowed:    http.StatusMethodNotAllowed,
	CodeRequestTimeout:      http.StatusRequestTimeout,
	CodeSandboxLimitReached: http.StatusForbidden,
	CodeExecutionTimeout:    http.StatusRequestTimeout,
}

// StatusOf returns the HTTP status that err is answered with.
func StatusOf(err error) int {
	if e, ok := errors.AsType[*hutch.Error](err); ok {
		if s, ok := codes[e.Code]; ok {
			return s
		}
	}
	if k := hutch.KindOf(err); int(k) < len(kinds) {
		return kinds[k].status
	}
	return http.StatusInternalServerError
}

// KindOfStatus is the way back, for clients: the kind a status >= 400 stands
// for. Statuses that no kind is answered with count as Invalid below 500 and as
// Internal from there on.
func KindOfStatus(status int) hutch.Kind {
	switch status {
	case http.StatusRequestTimeout:
		return hutch.Timeout
	case http.StatusBadGateway:
		return hutch.Unavailable
	case http.StatusGone:
		return hutch.NotFound
	case http.StatusNotImplemented:
		return hutch.Unsupported
	}
	for k := range kinds {
		if kinds[k].status == status {
			return hutch.Kind(k)
		}
	}
	if status >= 400 && status < 500 {
		return hutch.Invalid
	}
	return hutch.Internal
}

// An ErrorBody is what an error looks like on the control plane for everyone
// but the Python SDK, which gets a [NestedErrorBody].
type ErrorBody struct {
	Error     string         `json:"error"`
	Message   string         `json:"message"`
	Code      string         `json:"code"`
	RequestID string         `json:"request_id"`
	Details   map[string]any `json:"details"` // never null
}

// A NestedErrorBody is an [ErrorBody] whose error is an object: the Python SDK
// reads nothing else.
type NestedErrorBody struct {
	Error     ErrorObject    `json:"error"`
	Message   string         `json:"message"`
	Code      string         `json:"code"`
	RequestID string         `json:"request_id"`
	Details   map[string]any `json:"details"` // never null
}

// An ErrorObject is the error member of a [NestedErrorBody].
type ErrorObject struct {
	Message   string         `json:"message"`
	Code      string         `json:"code"`
	RequestID string         `json:"request_id"`
	Details   map[string]any `json:"details"` // never null
}

// An AgentErrorBody is what an error looks like on the agent and the gateway.
// Its error is a string for every client.
type AgentErrorBody struct {
	Error     string         `json:"error"`
	Message   string         `json:"message"`
	Code      string         `json:"code"`
	RequestID string         `json:"request_id"`
	Timestamp Time           `json:"timestamp"`
	Path      string         `json:"path,omitempty"` // of the file the error is about; taken from details
	Details   map[string]any `json:"details"`        // never null
}

// WriteControl answers a request to the control plane with err, in the shape
// its client can read, and logs what the client must not see. Nothing may have
// been written before.
func WriteControl(w http.ResponseWriter, r *http.Request, err error) {
	a := answerFor(w, r, err)
	if strings.HasPrefix(r.UserAgent(), "hopx-python/") {
		WriteJSON(w, r, a.status, NestedErrorBody{
			Error:   ErrorObject{a.msg, a.code, a.id, a.details},
			Message: a.msg, Code: a.code, RequestID: a.id, Details: a.details,
		})
		return
	}
	WriteJSON(w, r, a.status, ErrorBody{a.msg, a.msg, a.code, a.id, a.details})
}

// WriteAgent answers a request to the agent or the gateway with err and logs
// what the client must not see. Nothing may have been written before.
func WriteAgent(w http.ResponseWriter, r *http.Request, err error) {
	a := answerFor(w, r, err)
	path, _ := a.details["path"].(string)
	WriteJSON(w, r, a.status, AgentErrorBody{
		Error: a.msg, Message: a.msg, Code: a.code, RequestID: a.id,
		Timestamp: Time{time.Now()}, Path: path, Details: a.details,
	})
}

// answer is an error made presentable.
type answer struct {
	status        int
	code, msg, id string
	details       map[string]any
}

// answerFor decides what err looks like to its caller, sets the headers that go
// with it, and logs it.
func answerFor(w http.ResponseWriter, r *http.Request, err error) answer {
	kind := hutch.KindOf(err)
	if int(kind) >= len(kinds) {
		kind = hutch.Internal
	}
	a := answer{status: StatusOf(err), code: kinds[kind].code, msg: kinds[kind].msg, id: RequestID(r)}
	if a.id == "" { // not behind Identify
		a.id = NewRequestID()
		w.Header().Set(RequestIDHeader, a.id)
	}
	if e, ok := errors.AsType[*hutch.Error](err); ok && kind != hutch.Internal {
		if e.Code != "" {
			a.code = e.Code
		}
		if e.Msg != "" {
			a.msg = e.Msg
		}
		a.details = maps.Clone(e.Details)
	}
	if a.details == nil {
		a.details = map[string]any{}
	}
	for k, v := range a.details {
		if t, ok := v.(time.Time); ok {
			a.details[k] = Time{t}
		}
	}
	if kind == hutch.Internal {
		a.status = http.StatusInternalServerError
		a.msg = "An internal error occurred. The server's log has it under " + a.id
	}
	if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
		wait := seconds(a.details[RetryAfterDetail])
		a.details[RetryAfterDetail] = wait
		w.Header().Set("Retry-After", strconv.Itoa(wait))
	}
	if a.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	logError(r, a, kind, err)
	return a
}

// seconds reads a wait from details: whole seconds, at least one.
func seconds(v any) int {
	var s float64
	switch v := v.(type) {
	case int:
		s = float64(v)
	case int64:
		s = float64(v)
	case float64:
		s = v
	case time.Duration:
		s = v.Seconds()
	default:
		return defaultRetryAfter
	}
	if math.IsNaN(s) || s > 86400 {
		return 86400
	}
	return max(1, int(math.Ceil(s)))
}

func logError(r *http.Request, a answer, kind hutch.Kind, err error) {
	level := slog.LevelDebug
	switch {
	case kind == hutch.Internal:
		level = slog.LevelError
	case kind == hutch.Canceled:
	case a.status >= 500:
		level = slog.LevelWarn
	}
	Log(r.Context()).Log(r.Context(), level, "request failed",
		"method", r.Method, "path", r.URL.Path, "status", a.status, "code", a.code, "error", err)
}
