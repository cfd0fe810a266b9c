package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control/store"
)

// CreateRequest is a sandbox as its owner asks for it.
type CreateRequest struct {
	Org       hutch.OrgID
	Template  string // name or id
	Region    string // echoed
	Timeout   time.Duration
	OnTimeout hutch.State // what the deadline orders; zero: Gone
	Env       map[string]string
	Metadata  map[string]string
	Internet  bool
	Private   bool            // previews demand a token
	Resources hutch.Resources // zero fields: the template's default

	IdempotencyKey string // "": none
	BodyHash       []byte // of the request, to tell a repetition from another
}

// Create makes a sandbox and returns it running and its agent answering, with
// how long each step took. After an error nothing is left: no process, no
// quota, no row that lives. If the caller goes away meanwhile the sandbox is
// taken back. With an idempotency key the same request gives the same sandbox.
func (m *Manager) Create(ctx context.Context, r CreateRequest) (hutch.Sandbox, []hutch.Step, error) {
	if r.IdempotencyKey != "" {
		if sb, found, err := m.repeated(ctx, r); found || err != nil {
			return sb, nil, err
		}
	}
	sb, err := m.plan(ctx, r)
	if err != nil {
		return hutch.Sandbox{}, nil, err
	}
	began := time.Now()
	started, err := m.room.enter(ctx, sb.ID, m.cfg.QueueTime)
	if err != nil {
		return hutch.Sandbox{}, nil, err
	}
	defer started()
	steps := []hutch.Step{{Name: "queue", Took: time.Since(began)}}
	sb, more, err := m.make(ctx, r, sb)
	if err != nil {
		return hutch.Sandbox{}, nil, err
	}
	return sb, append(steps, more...), nil
}

// plan turns a request into a sandbox that has not been inserted yet.
func (m *Manager) plan(ctx context.Context, r CreateRequest) (hutch.Sandbox, error) {
	t, err := m.cfg.Store.Template(ctx, r.Org, r.Template)
	if err != nil {
		return hutch.Sandbox{}, err
	}
	if t.Status != hutch.TemplateActive {
		return hutch.Sandbox{}, &hutch.Error{Kind: hutch.Conflict, Op: "lifecycle.Create",
			Msg: fmt.Sprintf("Template %s is %s and cannot be used yet", t.Name, t.Status)}
	}
	res, err := resources(r.Resources, t)
	if err != nil {
		return hutch.Sandbox{}, err
	}
	if err := m.checkTimeout(r.Timeout); err != nil {
		return hutch.Sandbox{}, err
	}
	now := time.Now()
	sb := hutch.Sandbox{
		ID: hutch.NewSandboxID(), Org: r.Org, Host: m.cfg.Host,
		Spec: hutch.Spec{
			Template: t.ID, TemplateName: t.Name, Image: t.Image, Resources: res,
			Env: r.Env, Base: t.Env, Workdir: t.Workdir, Internet: r.Internet, Private: r.Private,
		},
		Want: hutch.Running, Why: hutch.ByRequest, Gen: 1, Is: hutch.Creating,
		Region: r.Region, Metadata: r.Metadata, OnTimeout: r.OnTimeout, Timeout: r.Timeout, Created: now,
	}
	if sb.OnTimeout == "" {
		sb.OnTimeout = hutch.Gone
	}
	if r.Timeout > 0 {
		sb.Deadline = now.Add(r.Timeout)
	}
	return sb, nil
}

// make inserts a planned sandbox and carries its first order.
func (m *Manager) make(ctx context.Context, r CreateRequest, sb hutch.Sandbox) (hutch.Sandbox, []hutch.Step, error) {
	var idem *store.Idempotency
	if r.IdempotencyKey != "" {
		idem = &store.Idempotency{Org: r.Org, Key: r.IdempotencyKey, BodyHash: r.BodyHash, Created: sb.Created}
	}
	m.begin(sb.ID) // before the row is there: the reconciler must not take it for an orphan
	defer m.finish(sb.ID)
	if err := m.cfg.Store.Insert(ctx, sb, idem); err != nil {
		m.room.leave(sb.ID)
		var e *hutch.Error
		if errors.As(err, &e) && e.Code == store.CodeKeyTaken {
			if same, found, rerr := m.repeated(ctx, r); found || rerr != nil {
				return same, nil, rerr
			}
		}
		return hutch.Sandbox{}, nil, err
	}
	limited, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	now, f, err := m.carry(limited, sb, m.order(sb))
	if err == nil && now.Is == hutch.Running && now.Want == hutch.Running && ctx.Err() == nil {
		return now, f.Took, nil
	}
	return hutch.Sandbox{}, nil, m.takeBack(ctx, r, now, f, err)
}

// takeBack ends a create that did not succeed, or whose client has gone, and
// says why.
func (m *Manager) takeBack(ctx context.Context, r CreateRequest, sb hutch.Sandbox, f hutch.Fact, cause error) error {
	const op = "lifecycle.Create"
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*killTime)
	defer cancel()
	if err := m.endAny(undo, sb.ID, hutch.ByFailure); err != nil {
		m.cfg.Log.Error("failed create not taken back yet", "sandbox", sb.ID, "err", err)
		// Not a 5xx, which says that nothing is left and is asked for again.
		return &hutch.Error{Kind: hutch.Conflict, Op: op, Err: errors.Join(cause, err),
			Msg: "The sandbox could not be started, and what there is of it is still being taken back: try again in a moment"}
	}
	if r.IdempotencyKey != "" {
		if e := m.cfg.Store.ForgetIdempotent(undo, r.Org, r.IdempotencyKey); e != nil {
			m.cfg.Log.Error("idempotency key not forgotten", "sandbox", sb.ID, "err", e)
		}
	}
	if cause == nil && f.Err != "" {
		cause = errors.New(f.Err)
	}
	final, err := m.cfg.Store.Find(undo, sb.ID)
	killed := err == nil && (final.Why == hutch.ByRequest || final.Why == hutch.ByTimeout || final.Why == hutch.ByDrain)
	switch {
	case ctx.Err() != nil:
		return &hutch.Error{Kind: hutch.Canceled, Op: op, Msg: "The client went away; the sandbox was taken back", Err: ctx.Err()}
	case killed:
		return &hutch.Error{Kind: hutch.Conflict, Op: op, Msg: "The sandbox was killed while it was being created", Err: cause}
	}
	return &hutch.Error{Kind: hutch.Internal, Op: op, Msg: "The sandbox could not be started; nothing of it is left", Err: cause}
}

// repeated answers a create whose idempotency key is known: with the sandbox it
// made, as soon as that is made.
func (m *Manager) repeated(ctx context.Context, r CreateRequest) (hutch.Sandbox, bool, error) {
	const op = "lifecycle.Create"
	id, hash, found, err := m.cfg.Store.Idempotent(ctx, r.Org, r.IdempotencyKey)
	if err != nil || !found {
		return hutch.Sandbox{}, false, err
	}
	if !bytes.Equal(hash, r.BodyHash) {
		return hutch.Sandbox{}, true, &hutch.Error{Kind: hutch.Conflict, Op: op,
			Msg: "This Idempotency-Key already exists with another request: use a new key for a new request"}
	}
	sb, err := m.settled(ctx, r.Org, id)
	if err != nil {
		return hutch.Sandbox{}, true, err
	}
	if sb.Is == hutch.Creating && sb.Alive() {
		return hutch.Sandbox{}, true, &hutch.Error{Kind: hutch.Unavailable, Op: op,
			Msg: "The first request with this Idempotency-Key was cut off and is being taken back: try again"}
	}
	if !sb.Alive() && sb.Why == hutch.ByFailure {
		// It was never anybody's: the key makes a new one.
		return hutch.Sandbox{}, false, m.cfg.Store.ForgetIdempotent(ctx, r.Org, r.IdempotencyKey)
	}
	if !sb.Alive() {
		return hutch.Sandbox{}, true, &hutch.Error{Kind: hutch.Conflict, Op: op,
			Msg: "The sandbox this Idempotency-Key already made has ended: use a new key to make another"}
	}
	return sb, true, nil
}

// settled waits for a sandbox to be made, by whoever is making it.
func (m *Manager) settled(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	for {
		made := m.room.made(id)
		sb, err := m.cfg.Store.Sandbox(ctx, org, id)
		if err != nil || sb.Is != hutch.Creating || sb.Want == hutch.Gone {
			return sb, err
		}
		select {
		case <-made:
			return m.cfg.Store.Sandbox(ctx, org, id)
		case <-ctx.Done():
			return sb, ctx.Err()
		}
	}
}

// resources fills in what was not asked for and refuses what the template does
// not allow.
func resources(ask hutch.Resources, t hutch.Template) (hutch.Resources, error) {
	pick := func(name string, ask, def, low, high int, unit string) (int, error) {
		if ask == 0 {
			return def, nil
		}
		if ask < low || high > 0 && ask > high {
			return 0, &hutch.Error{Kind: hutch.Invalid, Op: "lifecycle.Create",
				Msg: fmt.Sprintf("%s must be between %d and %d%s for template %s", name, low, high, unit, t.Name)}
		}
		return ask, nil
	}
	var r hutch.Resources
	var err [3]error
	r.VCPU, err[0] = pick("vcpu", ask.VCPU, t.Default.VCPU, t.Min.VCPU, t.Max.VCPU, "")
	r.MemoryMB, err[1] = pick("memory_mb", ask.MemoryMB, t.Default.MemoryMB, t.Min.MemoryMB, t.Max.MemoryMB, " MiB")
	r.DiskMB, err[2] = pick("disk", ask.DiskMB, t.Default.DiskMB, t.Min.DiskMB, t.Max.DiskMB, " MiB")
	for _, e := range err {
		if e != nil {
			return r, e
		}
	}
	return r, nil
}
