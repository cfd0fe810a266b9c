package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hutch-sh/hutch"
)

// Pause makes a sandbox stand still, with memory and processes kept. One that
// is paused already stays so; from any state but running it is a Conflict.
func (m *Manager) Pause(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return m.become(ctx, org, id, hutch.Paused)
}

// Resume lets a paused sandbox go on; a running one goes on anyway.
func (m *Manager) Resume(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return m.raise(ctx, org, id, hutch.Paused, "resumed", "start it instead")
}

// Stop ends a sandbox's processes, after the server's grace, and keeps its disk.
func (m *Manager) Stop(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return m.become(ctx, org, id, hutch.Stopped)
}

// Start makes a stopped sandbox run again on the disk it left.
func (m *Manager) Start(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	return m.raise(ctx, org, id, hutch.Stopped, "started", "resume it instead")
}

// raise orders Running from the one state that the verb is for.
func (m *Manager) raise(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, from hutch.State, verb, instead string) (hutch.Sandbox, error) {
	sb, err := m.Sandbox(ctx, org, id)
	if err != nil {
		return sb, err
	}
	if other := map[hutch.State]hutch.State{hutch.Paused: hutch.Stopped, hutch.Stopped: hutch.Paused}[from]; sb.Is == other {
		return sb, &hutch.Error{Kind: hutch.Conflict, Op: "lifecycle.Order",
			Msg: fmt.Sprintf("Sandbox is %s and cannot be %s: %s", sb.Is, verb, instead), Details: map[string]any{"status": sb.Status()}}
	}
	return m.become(ctx, org, id, hutch.Running)
}

// become orders a sandbox to be what its owner asks, and carries it.
func (m *Manager) become(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, want hutch.State) (hutch.Sandbox, error) {
	sb, _, err := m.cfg.Store.Order(ctx, org, id, want, hutch.ByRequest)
	if err != nil {
		return sb, notFound(err)
	}
	if sb.Is == want {
		return sb, nil
	}
	return m.settle(ctx, sb)
}

// settle carries an order other than Gone. One that the host could not carry
// out is taken back: the sandbox stays what it was.
func (m *Manager) settle(ctx context.Context, sb hutch.Sandbox) (hutch.Sandbox, error) {
	const op = "lifecycle.Order"
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderTime)
	defer cancel()
	o := m.order(sb)
	if sb.Want == hutch.Stopped {
		o.Grace = m.cfg.Grace
	}
	if sb.Want != hutch.Running {
		m.cfg.OnEnd(sb.ID)
	}
	now, f, err := m.carry(ctx, sb, o)
	switch {
	case err != nil:
		return now, &hutch.Error{Kind: hutch.Unavailable, Op: op, Err: err,
			Msg: fmt.Sprintf("The sandbox is not %s yet; the order stands and is being carried out", sb.Want)}
	case now.Is == sb.Want && f.Err == "":
		return now, nil
	case now.Is == sb.Want:
		m.cfg.Log.Error("not everything is given back yet", "sandbox", sb.ID, "is", now.Is, "err", f.Err)
		return now, &hutch.Error{Kind: hutch.Unavailable, Op: op, Err: errors.New(f.Err),
			Msg: fmt.Sprintf("The sandbox is %s, but not everything it held is given back yet; that goes on by itself", sb.Want)}
	case !now.Alive():
		return now, dead(now)
	}
	cause := errors.New(f.Err)
	if was, e := m.cfg.Store.Retract(ctx, sb.ID, sb.Gen); e != nil {
		cause = errors.Join(cause, e)
	} else {
		now = was
	}
	m.cfg.Log.Error("order not carried out", "sandbox", sb.ID, "want", sb.Want, "is", now.Is, "err", cause)
	return now, &hutch.Error{Kind: hutch.Internal, Op: op, Err: cause,
		Msg: fmt.Sprintf("The sandbox could not become %s and is still %s", sb.Want, now.Is)}
}

// SetTimeout sets a sandbox's deadline to d from now; 0 is none. It replaces the
// one before.
func (m *Manager) SetTimeout(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, d time.Duration) (hutch.Sandbox, error) {
	if err := m.checkTimeout(d); err != nil {
		return hutch.Sandbox{}, err
	}
	if _, err := m.Sandbox(ctx, org, id); err != nil {
		return hutch.Sandbox{}, err
	}
	var deadline time.Time
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	sb, err := m.cfg.Store.SetDeadline(ctx, org, id, d, deadline)
	return sb, notFound(err)
}

func (m *Manager) checkTimeout(d time.Duration) error {
	if d < 0 {
		return &hutch.Error{Kind: hutch.Invalid, Op: "lifecycle.SetTimeout", Msg: "Invalid timeout value: must be positive"}
	}
	if most := m.cfg.MaxTimeout; most > 0 && (d == 0 || d > most) {
		return &hutch.Error{Kind: hutch.Invalid, Op: "lifecycle.SetTimeout",
			Msg: fmt.Sprintf("Invalid timeout value: this server allows 1 to %d seconds", int(most.Seconds()))}
	}
	return nil
}
