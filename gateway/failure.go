package gateway

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// Codes of the gateway's own answers.
const (
	CodeSandboxNotFound  = "SANDBOX_NOT_FOUND"  // 404: there is no such sandbox, or no more
	CodeAgentUnreachable = "AGENT_UNREACHABLE"  // 503: the agent did not get the request
	CodeAgentLost        = "AGENT_LOST"         // 409: the agent got the request and ended without an answer
	CodePortNotListening = "PORT_NOT_LISTENING" // 502: nothing in the sandbox listens on the port
	CodeBadAnswer        = "BAD_GATEWAY"        // 502: what listens there gave no proper answer
)

// routeTimeout bounds the second look at a sandbox that was cut off.
const routeTimeout = 2 * time.Second

// carryFailed answers a request that did not come back from the guest.
func (g *Gateway) carryFailed(w http.ResponseWriter, out *http.Request, err error) {
	t := transitOf(out.Context())
	w.Header().Set(api.RequestIDHeader, api.RequestID(t.in))
	if t.lane.ctx.Err() != nil && !t.body.ended.Load() {
		w.Header().Set("Connection", "close") // the rest of the request will not be read
	}
	g.refuse(w, t.in, g.explain(t, err))
}

// explain finds out what a failed request means to its client.
//
// HopX's SDKs repeat whatever is answered with 5xx, also a POST. So 503 is for
// requests that the guest did not get and for those that may be repeated, and
// a POST whose fate is unknown is a 409, which nobody repeats blindly.
func (g *Gateway) explain(t *transit, err error) error {
	if t.lane.ctx.Err() != nil {
		// Cut: the sandbox is in another state now, and that is the answer. The
		// cut may have ended the request's own context, too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.in.Context()), routeTimeout)
		defer cancel()
		if _, rerr := g.route(ctx, t.id); rerr != nil {
			return rerr
		}
	} else if t.in.Context().Err() != nil {
		return &hutch.Error{Kind: hutch.Canceled, Op: "gateway", Msg: "The request was given up", Err: err}
	}
	if t.port != hutch.AgentPort {
		port := strconv.Itoa(int(t.port))
		if !t.reached.Load() {
			return &hutch.Error{Kind: hutch.Unavailable, Code: CodePortNotListening, Op: "gateway", Err: err,
				Msg: "Nothing listens on port " + port + " of this sandbox: start a server there that binds 0.0.0.0", Details: map[string]any{"port": int(t.port)}}
		}
		return &hutch.Error{Kind: hutch.Unavailable, Code: CodeBadAnswer, Op: "gateway", Err: err,
			Msg: "What listens on port " + port + " of this sandbox gave no proper HTTP answer", Details: map[string]any{"port": int(t.port)}}
	}
	sent := t.sent.Load()
	if sent && !repeatable(t.in.Method) {
		return &hutch.Error{Kind: hutch.Conflict, Code: CodeAgentLost, Op: "gateway", Err: err,
			Msg: "The connection to the sandbox was lost while it worked on this request: it may have been done in part, so look before you repeat it"}
	}
	e := &hutch.Error{Kind: hutch.Unavailable, Code: CodeAgentUnreachable, Op: "gateway", Err: err,
		Msg: "The sandbox's agent gave no answer: try again"}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Msg = "The sandbox's agent is starting: nothing was done, try again"
	case !sent:
		e.Msg = "The sandbox's agent cannot be reached: nothing was done, try again"
	}
	return e
}

func repeatable(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// refuse answers with err: in the agent's envelope, or to a browser that wants
// to see a preview as a page.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := api.StatusOf(err)
	e, ok := errors.AsType[*hutch.Error](err)
	bad := ok && (e.Code == CodePortNotListening || e.Code == CodeBadAnswer)
	if bad {
		status = http.StatusBadGateway
	}
	if to, named, _ := g.locate(r); ok && named && to.port != hutch.AgentPort && wantsHTML(r) && e.Kind != hutch.Internal {
		writePage(w, r, status, e.Msg)
		return
	}
	if bad {
		// The proper status for a preview's own server is not in the agent's table.
		api.Log(r.Context()).Debug("preview failed", "code", e.Code, "error", err)
		api.WriteJSON(w, r, status, api.AgentErrorBody{Error: e.Msg, Message: e.Msg, Code: e.Code, RequestID: api.RequestID(r),
			Timestamp: api.Time{Time: time.Now()}, Details: e.Details})
		return
	}
	api.WriteAgent(w, r, err)
}

// wantsHTML reports whether r is a browser's look at a page.
func wantsHTML(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && strings.Contains(r.Header.Get("Accept"), "text/html")
}

func writePage(w http.ResponseWriter, r *http.Request, status int, msg string) {
	title := html.EscapeString(strconv.Itoa(status) + " " + http.StatusText(status))
	page := fmt.Sprintf(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%s</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:15vh auto;padding:0 1rem}</style></head>
<body><h1>%s</h1><p>%s</p><p><small>%s</small></p></body></html>
`, title, title, html.EscapeString(msg), html.EscapeString(api.RequestID(r)))
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(page)))
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "2")
	}
	w.WriteHeader(status)
	w.Write([]byte(page)) // the visitor may be gone; there is nobody to tell
}
