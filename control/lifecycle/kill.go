package lifecycle

import (
	"context"
	"time"

	"github.com/hutch-sh/hutch"
)

// Kill ends a sandbox of org at once, whatever its state. A nil error means
// that nothing of it is left anywhere: no process, address, rule, file, token
// or route. If that cannot be proven within 5 s the error is Unavailable, the
// order stands and is carried to its end. Kills of one sandbox join each other,
// and one repeated within 5 minutes of the death succeeds again; later, and for
// everybody else, it is NotFound.
func (m *Manager) Kill(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) error {
	return m.end(ctx, org, id, 0)
}

// Delete is Kill for those who want their processes to end by themselves: they
// get SIGTERM and up to grace. A negative grace is the server's default. Unlike
// other deletes it does not fail on a sandbox that does not answer.
func (m *Manager) Delete(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, grace time.Duration) error {
	if grace < 0 {
		grace = m.cfg.Grace
	}
	return m.end(ctx, org, id, grace)
}

func (m *Manager) end(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, grace time.Duration) error {
	sb, _, err := m.cfg.Store.Order(ctx, org, id, hutch.Gone, hutch.ByRequest)
	if err != nil {
		return notFound(err)
	}
	if sb.Is == hutch.Gone {
		if time.Since(sb.Ended) <= repeatTime {
			return nil
		}
		return dead(sb)
	}
	return m.carryGone(ctx, sb, grace)
}

// endAny is end for those who own nothing: the reaper, a failed create, an
// operator. The reason of the first order stands.
func (m *Manager) endAny(ctx context.Context, id hutch.SandboxID, why hutch.Reason) error {
	sb, _, err := m.cfg.Store.OrderAny(ctx, id, hutch.Gone, why)
	if err != nil {
		return err
	}
	if sb.Is == hutch.Gone {
		return nil
	}
	return m.carryGone(ctx, sb, 0)
}

// KillAll ends every sandbox of every organization, several at a time, and
// reports each to done as it ends. It is the operator's.
func (m *Manager) KillAll(ctx context.Context, why hutch.Reason, done func(hutch.SandboxID, error)) error {
	live, err := m.cfg.Store.Live(ctx, m.cfg.Host)
	if err != nil {
		return err
	}
	forEach(live, killsAtOnce, func(sb hutch.Sandbox) { done(sb.ID, m.endAny(ctx, sb.ID, why)) })
	return nil
}

// carryGone carries a kill that has been ordered. It goes on when the client
// has gone.
func (m *Manager) carryGone(ctx context.Context, sb hutch.Sandbox, grace time.Duration) error {
	m.cfg.OnEnd(sb.ID)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime+grace)
	defer cancel()
	o := m.order(sb)
	o.Grace = grace
	now, f, err := m.carry(ctx, sb, o)
	if err == nil && now.Is == hutch.Gone {
		return nil
	}
	m.cfg.Log.Error("kill not proven yet", "sandbox", sb.ID, "is", f.Is, "fault", f.Err, "err", err)
	return &hutch.Error{Kind: hutch.Unavailable, Op: "lifecycle.Kill", Err: err,
		Msg:     "The sandbox is being killed but is not proven gone yet; the order stands and is being carried out. Ask again",
		Details: map[string]any{"status": "killing", "retry_after_seconds": 1}}
}
