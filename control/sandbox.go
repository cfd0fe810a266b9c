package control

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/lifecycle"
)

// undoTime is how long taking back a create may take.
const undoTime = 10 * time.Second

// createSandbox answers when the sandbox can be used. An error means that
// nothing is left of it, and so does a caller that has gone.
func (s *Server) createSandbox(c *call) (reply, error) {
	began := time.Now()
	req, err := decodeCreate(c.Header, c.body, s.cfg)
	if err != nil {
		return reply{}, err
	}
	req.Org = c.org()
	sb, steps, err := s.sandboxes.Create(c.Context(), req)
	if err != nil {
		return reply{}, templateError(err, req.Template)
	}
	tok, expires, err := s.sandboxes.Token(c.Context(), c.org(), sb.ID)
	if err == nil {
		err = c.Context().Err()
	}
	if err != nil {
		return reply{}, s.takeBack(c.Context(), req, sb, err)
	}
	return reply{http.StatusCreated, api.CreatedSandbox{
		Sandbox:        s.show(sb, c.id),
		AuthToken:      tok,
		TokenExpiresAt: api.Time{Time: expires},
		Start:          "cold",
		Timing:         showTiming(steps, time.Since(began)),
	}}, nil
}

// takeBack kills a sandbox whose create will not be answered with success, and
// returns what it is answered with. One that was asked for with an idempotency
// key stays: asking again finds it, and it may have been answered before.
func (s *Server) takeBack(ctx context.Context, req lifecycle.CreateRequest, sb hutch.Sandbox, cause error) error {
	if hutch.KindOf(cause) == hutch.NotFound { // somebody was faster
		return &hutch.Error{Kind: hutch.Conflict, Op: "control.createSandbox", Msg: "The sandbox was ended while it was made", Err: cause}
	}
	if req.IdempotencyKey != "" {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := s.sandboxes.Kill(ctx, sb.Org, sb.ID); err != nil && hutch.KindOf(err) != hutch.NotFound {
		return errors.Join(err, cause)
	}
	return cause
}

func (s *Server) listSandboxes(c *call) (reply, error) {
	f, err := decodeList(c.org(), c.URL.RawQuery)
	if err != nil {
		return reply{}, err
	}
	page, err := s.sandboxes.List(c.Context(), f)
	if err != nil {
		return reply{}, err
	}
	l := api.SandboxList{Object: "list", Data: []api.Sandbox{}, URL: "/v1/sandboxes", RequestID: c.id}
	for _, sb := range page.Sandboxes {
		l.Data = append(l.Data, s.show(sb, ""))
	}
	if page.Next != "" {
		l.HasMore, l.NextCursor = true, &page.Next
	}
	return ok(l)
}

func (s *Server) sandbox(c *call) (reply, error) {
	id, err := sandboxID(c)
	if err != nil {
		return reply{}, err
	}
	sb, err := s.sandboxes.Sandbox(c.Context(), c.org(), id)
	if err != nil {
		return reply{}, sandboxError(err)
	}
	return ok(s.show(sb, c.id))
}

// killSandbox waits for nothing inside the sandbox; its 200 means gone.
func (s *Server) killSandbox(c *call) (reply, error) {
	id, err := sandboxID(c)
	if err != nil {
		return reply{}, err
	}
	if err := s.sandboxes.Kill(c.Context(), c.org(), id); err != nil {
		return reply{}, sandboxError(err)
	}
	return ok(api.SandboxStatus{ID: string(id), Status: "killed", RequestID: c.id})
}

// deleteSandbox lets processes end by themselves first; its 200 means gone.
func (s *Server) deleteSandbox(c *call) (reply, error) {
	id, err := sandboxID(c)
	if err != nil {
		return reply{}, err
	}
	grace, err := decodeGrace(c.URL.RawQuery)
	if err != nil {
		return reply{}, err
	}
	if err := s.sandboxes.Delete(c.Context(), c.org(), id, grace); err != nil {
		return reply{}, sandboxError(err)
	}
	return ok(api.SandboxStatus{ID: string(id), Status: "deleted", RequestID: c.id})
}

func (s *Server) pauseSandbox(c *call) (reply, error)  { return s.move(c, s.sandboxes.Pause) }
func (s *Server) resumeSandbox(c *call) (reply, error) { return s.move(c, s.sandboxes.Resume) }
func (s *Server) stopSandbox(c *call) (reply, error)   { return s.move(c, s.sandboxes.Stop) }
func (s *Server) startSandbox(c *call) (reply, error)  { return s.move(c, s.sandboxes.Start) }

// move carries out a verb that keeps the sandbox and answers where it stands.
func (s *Server) move(c *call, verb func(context.Context, hutch.OrgID, hutch.SandboxID) (hutch.Sandbox, error)) (reply, error) {
	id, err := sandboxID(c)
	if err != nil {
		return reply{}, err
	}
	sb, err := verb(c.Context(), c.org(), id)
	if err != nil {
		return reply{}, sandboxError(err)
	}
	return ok(api.SandboxStatus{ID: string(id), Status: sb.Status(), RequestID: c.id})
}

func (s *Server) setTimeout(c *call) (reply, error) {
	id, err := sandboxID(c)
	if err != nil {
		return reply{}, err
	}
	d, err := decodeTimeout(c.body, s.cfg.MaxTimeout)
	if err != nil {
		return reply{}, err
	}
	sb, err := s.sandboxes.SetTimeout(c.Context(), c.org(), id, d)
	if err != nil {
		return reply{}, sandboxError(err)
	}
	return ok(api.SandboxTimeout{
		ID: string(id), TimeoutSeconds: showSeconds(sb.Timeout), ExpiresAt: api.Time{Time: sb.Deadline}, RequestID: c.id,
	})
}

func (s *Server) refreshToken(c *call) (reply, error) {
	id, err := sandboxID(c)
	if err != nil {
		return reply{}, err
	}
	tok, expires, err := s.sandboxes.Token(c.Context(), c.org(), id)
	if err != nil {
		return reply{}, sandboxError(err)
	}
	return ok(api.SandboxToken{ID: string(id), AuthToken: tok, TokenExpiresAt: api.Time{Time: expires}, RequestID: c.id})
}

// sandboxID returns the id in the path. What cannot be an id is not found,
// without anyone being asked.
func sandboxID(c *call) (hutch.SandboxID, error) {
	id := hutch.SandboxID(c.PathValue("id"))
	if !id.Valid() {
		return "", sandboxError(&hutch.Error{Kind: hutch.NotFound, Op: "control.sandboxID"})
	}
	return id, nil
}

// sandboxError gives every missing sandbox the same words: the SDKs make an
// exception of their own from them, and nobody learns whether an id is another's.
func sandboxError(err error) error {
	if hutch.KindOf(err) != hutch.NotFound {
		return err
	}
	return notFound("Sandbox not found", err)
}

// templateError gives every missing template the same words, which must not
// have "sandbox" in them, not even in a name: the JavaScript SDK would report an
// expired one.
func templateError(err error, template string) error {
	if hutch.KindOf(err) != hutch.NotFound {
		return err
	}
	e := notFound("Template not found: GET /v1/templates lists what there is", err)
	e.Details = map[string]any{"template": template}
	return e
}

func notFound(msg string, err error) *hutch.Error {
	e := &hutch.Error{Kind: hutch.NotFound, Code: api.CodeResourceNotFound, Op: "control", Msg: msg, Err: err}
	if inner, ok := errors.AsType[*hutch.Error](err); ok {
		e.Details = inner.Details
	}
	return e
}
