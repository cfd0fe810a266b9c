package store

import (
	"context"
	"errors"
	"fmt"

	hutch "github.com/hutch-sh/hutch"
)

// Order keeps that the sandbox id of org is to become want, because of why: it
// is there after a crash, whoever carries it out. It returns the row as it is
// now, and whether this call made the order.
//
// Gone may be ordered of everything, in every state, and stays: a second
// order is joined, changed=false. The other targets are joined if they are
// wanted already, and otherwise allowed only from a settled sandbox (its last
// order carried out) whose state table has the way.
//
// NotFound as [DB.Sandbox], and for all but Gone if the sandbox is ordered
// gone. Conflict, with the state in the message, for a target that is not
// allowed now. Together with either the row is returned as it is, if there is
// one.
func (db *DB) Order(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, want hutch.State, why hutch.Reason) (sb hutch.Sandbox, changed bool, err error) {
	return db.order(ctx, &org, id, want, why)
}

// OrderAny is [DB.Order] whoever owns the sandbox: for the reaper, the
// reconciler and operators.
func (db *DB) OrderAny(ctx context.Context, id hutch.SandboxID, want hutch.State, why hutch.Reason) (sb hutch.Sandbox, changed bool, err error) {
	return db.order(ctx, nil, id, want, why)
}

func (db *DB) order(ctx context.Context, org *hutch.OrgID, id hutch.SandboxID, want hutch.State, why hutch.Reason) (sb hutch.Sandbox, changed bool, err error) {
	const op = "store.Order"
	write := db.write
	if want == hutch.Gone {
		write = db.writeLast
	}
	err = write(ctx, func(t *tx) error {
		was, err := t.sandbox(id)
		if err != nil {
			return err
		}
		if org != nil && was.Org != *org {
			return &hutch.Error{Kind: hutch.NotFound, Msg: noSandbox}
		}
		sb, changed, err = decide(was, want, why)
		if err != nil || !changed {
			return err
		}
		return t.update(was, sb)
	})
	if err != nil {
		changed = false
	}
	return sb, changed, fail(op, err)
}

// Retract takes back order gen, which the host could not carry out: what is
// wanted becomes what is, in a new generation. It does so only while gen is
// the newest order, is not Gone, and the sandbox is Running, Paused or
// Stopped; otherwise it changes nothing. It returns the row as it is now.
//
// Without it a pause that failed would be tried until the end of days; with it
// the sandbox stays what it was and may be ordered anew.
func (db *DB) Retract(ctx context.Context, id hutch.SandboxID, gen uint64) (sb hutch.Sandbox, err error) {
	err = db.write(ctx, func(t *tx) error {
		was, err := t.sandbox(id)
		if err != nil {
			return err
		}
		sb = was
		switch {
		case was.Gen != gen, was.Want == hutch.Gone, was.Want == was.Is:
			return nil
		case was.Is == hutch.Running, was.Is == hutch.Paused, was.Is == hutch.Stopped:
			sb.Want = was.Is
			sb.Gen++
			return t.update(was, sb)
		}
		return nil
	})
	return sb, fail("store.Retract", err)
}

// decide applies an order to a row. It is the only place that knows which
// orders are allowed; [hutch.State.May] is its table.
func decide(sb hutch.Sandbox, want hutch.State, why hutch.Reason) (hutch.Sandbox, bool, error) {
	switch want {
	case hutch.Running, hutch.Paused, hutch.Stopped, hutch.Gone:
	default:
		return sb, false, &hutch.Error{Kind: hutch.Internal, Msg: fmt.Sprintf("nothing can be ordered to be %q", want)}
	}
	switch {
	case want == sb.Want:
		return sb, false, nil
	case want == hutch.Gone:
		// always
	case sb.Want == hutch.Gone:
		return sb, false, &hutch.Error{Kind: hutch.NotFound, Msg: noSandbox}
	case sb.Want != sb.Is:
		return sb, false, conflict(sb, fmt.Sprintf("Sandbox is %s and on its way to %s: wait until it is, then try again", sb.Is, sb.Want))
	case !sb.Is.May(want):
		return sb, false, conflict(sb, fmt.Sprintf("Sandbox is %s and cannot become %s", sb.Is, want))
	}
	sb.Want, sb.Why = want, why
	sb.Gen++
	return sb, true, nil
}

func conflict(sb hutch.Sandbox, msg string) error {
	return &hutch.Error{Kind: hutch.Conflict, Msg: msg, Details: map[string]any{"status": sb.Status()}}
}

// errRaced means that a row changed between being read and being written. In
// SQLite that cannot happen, for there is one writer at a time.
var errRaced = errors.New("the row was changed by another transaction")

// update writes what orders and facts may change of a row, provided it still
// is what was read.
func (t *tx) update(was, sb hutch.Sandbox) error {
	addr := ""
	if sb.Addr.IsValid() {
		addr = sb.Addr.String()
	}
	n, err := t.exec(`UPDATE sandboxes SET want = $1, why = $2, gen = $3, state = $4, addr = $5, fault = $6, started = $7, ended = $8
		WHERE id = $9 AND want = $10 AND gen = $11 AND state = $12`,
		string(sb.Want), string(sb.Why), int64(sb.Gen), string(sb.Is), addr, sb.Fault, ms(sb.Started), ms(sb.Ended),
		string(was.ID), string(was.Want), int64(was.Gen), string(was.Is))
	if err != nil {
		return err
	}
	if n != 1 {
		return &hutch.Error{Kind: hutch.Unavailable, Msg: "the sandbox is changing: try again", Err: errRaced}
	}
	return nil
}
