package store

import (
	"context"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// touchEvery bounds how often the use of a key is written down.
const touchEvery = time.Minute

// A Key is what is kept of an API key: never the key itself.
type Key struct {
	ID       string // the public part, 12 base62 digits
	Org      hutch.OrgID
	Name     string
	Hash     []byte // of the secret part
	Created  time.Time
	Expires  time.Time // zero: never
	LastUsed time.Time // to the minute; zero: never
	Revoked  time.Time // zero: not
}

const selectKey = `SELECT id, org, name, hash, created, expires, last_used, revoked FROM api_keys`

func scanKey(r row) (k Key, err error) {
	var created, expires, used, revoked int64
	err = r.Scan(&k.ID, &k.Org, &k.Name, &k.Hash, &created, &expires, &used, &revoked)
	k.Created, k.Expires, k.LastUsed, k.Revoked = at(created), at(expires), at(used), at(revoked)
	return k, err
}

// InsertKey adds a key. Conflict if its ID exists; ids are random, so make
// another.
func (db *DB) InsertKey(ctx context.Context, k Key) error {
	return fail("store.InsertKey", db.write(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO api_keys (id, org, name, hash, created, expires, last_used, revoked)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			k.ID, int64(k.Org), k.Name, k.Hash, ms(k.Created), ms(k.Expires), ms(k.LastUsed), ms(k.Revoked))
		if isDuplicate(err) {
			return &hutch.Error{Kind: hutch.Conflict, Msg: "a key with this id exists", Err: err}
		}
		return err
	}))
}

// Key returns the key id whoever owns it, also if it is revoked or has
// expired: the caller judges. NotFound if there is none.
func (db *DB) Key(ctx context.Context, id string) (Key, error) {
	k, err := one(ctx, db, scanKey, selectKey+` WHERE id = $1`, id)
	return k, fail("store.Key", orNotFound(err, "API key not found"))
}

// Keys returns every key of org, the newest first, revoked ones too.
func (db *DB) Keys(ctx context.Context, org hutch.OrgID) ([]Key, error) {
	ks, err := all(ctx, db, scanKey, selectKey+` WHERE org = $1 ORDER BY created DESC, id DESC`, int64(org))
	return ks, fail("store.Keys", err)
}

// RevokeKey ends a key of org at once and for good. Revoking it again is no
// error and keeps the first time. NotFound if it is not org's.
func (db *DB) RevokeKey(ctx context.Context, org hutch.OrgID, id string) error {
	return fail("store.RevokeKey", db.write(ctx, func(t *tx) error {
		n, err := t.exec(`UPDATE api_keys SET revoked = CASE WHEN revoked = 0 THEN $1 ELSE revoked END WHERE id = $2 AND org = $3`,
			time.Now().UnixMilli(), id, int64(org))
		if err == nil && n == 0 {
			err = &hutch.Error{Kind: hutch.NotFound, Msg: "API key not found"}
		}
		return err
	}))
}

// TouchKey writes down that the key id was used at now. It may be called for
// every request: within a minute of the last time it only reads. An unknown
// key is no error.
func (db *DB) TouchKey(ctx context.Context, id string, now time.Time) error {
	const op = "store.TouchKey"
	stale := now.Add(-touchEvery).UnixMilli()
	n, err := one(ctx, db, func(r row) (n int, err error) { return n, r.Scan(&n) },
		`SELECT COUNT(*) FROM api_keys WHERE id = $1 AND last_used < $2`, id, stale)
	if err != nil || n == 0 {
		return fail(op, err)
	}
	return fail(op, db.write(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE api_keys SET last_used = $1 WHERE id = $2 AND last_used < $3`, now.UnixMilli(), id, stale)
		return err
	}))
}
