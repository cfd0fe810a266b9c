package api

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"log/slog"
	"net/http"
	"strings"
)

// RequestIDHeader carries the request id in every answer. The JavaScript SDK
// reads nothing else.
const RequestIDHeader = "X-Request-ID"

const (
	requestIDPrefix = "req_"
	requestIDBytes  = 10 // 80 random bits: ids only need to be unique within a log
)

var requestIDDigits = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

type requestKey struct{}

// request is what the middleware keeps about one request.
type request struct {
	id  string
	log *slog.Logger
}

// NewRequestID returns a fresh id of the form "req_<16 of [a-z2-7]>".
func NewRequestID() string {
	var b [requestIDBytes]byte
	rand.Read(b[:]) // never fails, since Go 1.24
	return requestIDPrefix + requestIDDigits.EncodeToString(b[:])
}

// Identify gives every request an id of its own, names it in the answer's
// X-Request-ID header, and has errors of this request logged to log, with the
// id. What the caller sent in that header is ignored: ids are the operator's
// way through the log and a tenant must not choose them.
func Identify(log *slog.Logger, next http.Handler) http.Handler {
	return identify(log, next, func(*http.Request) string { return NewRequestID() })
}

// Adopt is [Identify] for servers that only our own gateway can reach: an id
// that has the right shape is taken over, so that one id names the request on
// the whole way.
func Adopt(log *slog.Logger, next http.Handler) http.Handler {
	return identify(log, next, func(r *http.Request) string {
		if id := r.Header.Get(RequestIDHeader); validRequestID(id) {
			return id
		}
		return NewRequestID()
	})
}

func identify(log *slog.Logger, next http.Handler, id func(*http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rid := id(r)
		w.Header().Set(RequestIDHeader, rid)
		ctx := context.WithValue(r.Context(), requestKey{}, request{rid, log.With("request_id", rid)})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func validRequestID(id string) bool {
	rest, ok := strings.CutPrefix(id, requestIDPrefix)
	return ok && len(rest) == requestIDDigits.EncodedLen(requestIDBytes) &&
		strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// RequestID returns the id that [Identify] gave r, or "" if r did not pass it.
func RequestID(r *http.Request) string {
	v, _ := r.Context().Value(requestKey{}).(request)
	return v.id
}

// Log returns the logger of ctx's request, which adds the request id to every
// line, or [slog.Default] outside of one.
func Log(ctx context.Context) *slog.Logger {
	if v, ok := ctx.Value(requestKey{}).(request); ok && v.log != nil {
		return v.log
	}
	return slog.Default()
}
