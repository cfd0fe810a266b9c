package store

import (
	"context"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// Due returns the sandboxes whose deadline is at or before now and whose
// [hutch.Sandbox.OnTimeout] has not been ordered yet, longest overdue first.
func (db *DB) Due(ctx context.Context, now time.Time) ([]hutch.Sandbox, error) {
	sbs, err := all(ctx, db, scanSandbox, selectSandbox+`
		WHERE deadline > 0 AND deadline <= $1 AND want <> 'gone' AND want <> on_timeout ORDER BY deadline, id`, now.UnixMilli())
	return sbs, fail("store.Due", err)
}

// Unmet returns the sandboxes that are not what is wanted of them and not gone,
// oldest first: orders under way, orders whose carrier died, and failures.
func (db *DB) Unmet(ctx context.Context) ([]hutch.Sandbox, error) {
	sbs, err := all(ctx, db, scanSandbox, selectSandbox+` WHERE state <> 'gone' AND state <> want ORDER BY created, id`)
	return sbs, fail("store.Unmet", err)
}

// Live returns every sandbox of host that is not gone, ordered to be or not,
// oldest first: all that the host may hold.
func (db *DB) Live(ctx context.Context, host hutch.HostID) ([]hutch.Sandbox, error) {
	sbs, err := all(ctx, db, scanSandbox, selectSandbox+` WHERE host = $1 AND state <> 'gone' ORDER BY created, id`, string(host))
	return sbs, fail("store.Live", err)
}

// pruneBatch bounds how many rows one transaction forgets, so that kills do
// not wait behind it.
const pruneBatch = 500

// Prune forgets the sandboxes that are gone since before endedBefore and the
// idempotency keys made before it, and returns how many sandboxes that were.
// It also makes the space again that ending things on a full disk has used.
// After an error part of it may be done.
func (db *DB) Prune(ctx context.Context, endedBefore time.Time) (int, error) {
	const op = "store.Prune"
	before := endedBefore.UnixMilli()
	n, err := db.batches(ctx, `DELETE FROM sandboxes WHERE id IN
		(SELECT id FROM sandboxes WHERE state = 'gone' AND ended < $1 LIMIT $2)`, before)
	if err != nil {
		return n, fail(op, err)
	}
	if _, err := db.batches(ctx, `DELETE FROM idempotency WHERE (org, key) IN
		(SELECT org, key FROM idempotency WHERE created < $1 LIMIT $2)`, before); err != nil {
		return n, fail(op, err)
	}
	return n, fail(op, db.reserve.fill())
}

func (db *DB) batches(ctx context.Context, del string, before int64) (total int, err error) {
	for {
		var n int64
		err := db.write(ctx, func(t *tx) (err error) {
			n, err = t.exec(del, before, pruneBatch)
			return err
		})
		total += int(n)
		if err != nil || n < pruneBatch {
			return total, err
		}
	}
}
