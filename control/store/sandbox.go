package store

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// CodeSandboxLimit is the Code of [DB.InsertWithin]'s refusal.
const CodeSandboxLimit = "SANDBOX_LIMIT_REACHED"

const noSandbox = "Sandbox not found"

// Insert adds a new sandbox: whatever sb says, it begins wanted Running in
// generation 1 and Creating. ID, Org, Spec and Created must be set; a zero
// OnTimeout means Gone. With idem, the client's key is tied to it in the same
// transaction.
//
// Conflict, with [CodeKeyTaken], if the key is tied already; nothing is
// written then, nor after any other error.
func (db *DB) Insert(ctx context.Context, sb hutch.Sandbox, idem *Idempotency) error {
	return db.InsertWithin(ctx, sb, idem, 0)
}

// InsertWithin is [DB.Insert] for an organization that may have limit
// sandboxes: counting and adding are one transaction, so the limit is exact
// however many create at once. One that is ordered gone counts no more.
// Exhausted, with [CodeSandboxLimit], when the limit is reached; 0 is no limit.
func (db *DB) InsertWithin(ctx context.Context, sb hutch.Sandbox, idem *Idempotency, limit int) error {
	const op = "store.Insert"
	if sb.OnTimeout == "" {
		sb.OnTimeout = hutch.Gone
	}
	if err := db.reserve.whole(); err != nil {
		return fail(op, err)
	}
	spec, err := json.Marshal(sb.Spec)
	if err != nil {
		return fail(op, err)
	}
	labels, err := marshalMap(sb.Metadata)
	if err != nil {
		return fail(op, err)
	}
	return fail(op, db.write(ctx, func(t *tx) error {
		if limit > 0 {
			var n int
			if err := t.row(countLive, int64(sb.Org)).Scan(&n); err != nil {
				return err
			}
			if n >= limit {
				return &hutch.Error{Kind: hutch.Exhausted, Code: CodeSandboxLimit,
					Msg:     fmt.Sprintf("Sandbox limit of %d reached: delete a sandbox or raise the limit", limit),
					Details: map[string]any{"limit": limit, "live": n}}
			}
		}
		_, err := t.exec(`INSERT INTO sandboxes (
				id, org, host, template, template_name, spec, region, metadata, want, why, gen,
				state, addr, fault, started, ended, on_timeout, timeout_ms, created, deadline)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'running', $9, 1,
				'creating', '', '', 0, 0, $10, $11, $12, $13)`,
			string(sb.ID), int64(sb.Org), string(sb.Host), string(sb.Spec.Template), sb.Spec.TemplateName, string(spec),
			sb.Region, labels, string(sb.Why), string(sb.OnTimeout), sb.Timeout.Milliseconds(), ms(sb.Created), ms(sb.Deadline))
		if isDuplicate(err) {
			return &hutch.Error{Kind: hutch.Conflict, Msg: "a sandbox with this id exists", Err: err}
		}
		if err != nil {
			return err
		}
		for k, v := range sb.Metadata {
			if _, err := t.exec(`INSERT INTO sandbox_metadata (id, key, value) VALUES ($1, $2, $3)`, string(sb.ID), k, v); err != nil {
				return err
			}
		}
		if idem != nil {
			return t.tie(*idem, sb.ID)
		}
		return nil
	}))
}

// Sandbox returns the sandbox id of org, also a gone one until it is pruned.
// NotFound for one that does not exist or belongs to somebody else.
func (db *DB) Sandbox(ctx context.Context, org hutch.OrgID, id hutch.SandboxID) (hutch.Sandbox, error) {
	sb, err := one(ctx, db, scanSandbox, selectSandbox+` WHERE id = $1 AND org = $2`, string(id), int64(org))
	return sb, fail("store.Sandbox", orNotFound(err, noSandbox))
}

// Find returns the sandbox id whoever owns it: for the gateway and the
// reconciler, never for a user's request.
func (db *DB) Find(ctx context.Context, id hutch.SandboxID) (hutch.Sandbox, error) {
	sb, err := one(ctx, db, scanSandbox, selectSandbox+` WHERE id = $1`, string(id))
	return sb, fail("store.Find", orNotFound(err, noSandbox))
}

const countLive = `SELECT COUNT(*) FROM sandboxes WHERE org = $1 AND want <> 'gone'`

// CountLive returns how many sandboxes of org are not ordered gone.
func (db *DB) CountLive(ctx context.Context, org hutch.OrgID) (int, error) {
	n, err := one(ctx, db, func(r row) (n int, err error) { return n, r.Scan(&n) }, countLive, int64(org))
	return n, fail("store.CountLive", err)
}

// SetDeadline sets when the sandbox's time is up, and the span that was asked
// for; a zero deadline is none. It returns the row as it is now. NotFound as
// [DB.Sandbox], and for a sandbox that is ordered gone: a kill is never undone
// by more time.
func (db *DB) SetDeadline(ctx context.Context, org hutch.OrgID, id hutch.SandboxID, span time.Duration, deadline time.Time) (sb hutch.Sandbox, err error) {
	err = db.write(ctx, func(t *tx) error {
		n, err := t.exec(`UPDATE sandboxes SET timeout_ms = $1, deadline = $2 WHERE id = $3 AND org = $4 AND want <> 'gone'`,
			span.Milliseconds(), ms(deadline), string(id), int64(org))
		if err != nil {
			return err
		}
		if n == 0 {
			return &hutch.Error{Kind: hutch.NotFound, Msg: noSandbox}
		}
		sb, err = t.sandbox(id)
		return err
	})
	return sb, fail("store.SetDeadline", err)
}

const selectSandbox = `SELECT id, org, host, spec, region, metadata, want, why, gen,
	state, addr, fault, started, ended, on_timeout, timeout_ms, created, deadline FROM sandboxes`

// sandbox reads one row within the transaction.
func (t *tx) sandbox(id hutch.SandboxID) (hutch.Sandbox, error) {
	sb, err := scanSandbox(t.row(selectSandbox+` WHERE id = $1`, string(id)))
	return sb, orNotFound(err, noSandbox)
}

func scanSandbox(r row) (hutch.Sandbox, error) {
	var (
		sb                                         hutch.Sandbox
		spec, labels, addr                         string
		started, ended, timeout, created, deadline int64
	)
	err := r.Scan(&sb.ID, &sb.Org, &sb.Host, &spec, &sb.Region, &labels, &sb.Want, &sb.Why, &sb.Gen,
		&sb.Is, &addr, &sb.Fault, &started, &ended, &sb.OnTimeout, &timeout, &created, &deadline)
	if err != nil {
		return hutch.Sandbox{}, err
	}
	if err := json.Unmarshal([]byte(spec), &sb.Spec); err != nil {
		return hutch.Sandbox{}, fmt.Errorf("spec of sandbox %s: %w", sb.ID, err)
	}
	if err := json.Unmarshal([]byte(labels), &sb.Metadata); err != nil {
		return hutch.Sandbox{}, fmt.Errorf("metadata of sandbox %s: %w", sb.ID, err)
	}
	if addr != "" {
		if sb.Addr, err = netip.ParseAddr(addr); err != nil {
			return hutch.Sandbox{}, fmt.Errorf("address of sandbox %s: %w", sb.ID, err)
		}
	}
	sb.Timeout = time.Duration(timeout) * time.Millisecond
	sb.Started, sb.Ended, sb.Created, sb.Deadline = at(started), at(ended), at(created), at(deadline)
	return sb, nil
}

// ms and at turn times into columns and back; the zero time is 0.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func at(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// marshalMap writes a nil map as an empty one, so that reading needs no case for null.
func marshalMap(m map[string]string) (string, error) {
	if m == nil {
		return "{}", nil
	}
	b, err := json.Marshal(m)
	return string(b), err
}
