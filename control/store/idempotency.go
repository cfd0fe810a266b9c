package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// CodeKeyTaken is the Code of the Conflict that [DB.Insert] returns when the
// client's idempotency key is tied to a sandbox already: read which with
// [DB.Idempotent].
const CodeKeyTaken = "IDEMPOTENCY_KEY_TAKEN"

// An Idempotency ties a client's own key to the sandbox its first create made,
// so that the same request sent again makes no second one.
type Idempotency struct {
	Org      hutch.OrgID
	Key      string
	BodyHash []byte // of the request, to tell a repetition from another request
	Created  time.Time
}

func (t *tx) tie(k Idempotency, id hutch.SandboxID) error {
	hash := k.BodyHash
	if hash == nil {
		hash = []byte{} // nil would be NULL
	}
	_, err := t.exec(`INSERT INTO idempotency (org, key, body_hash, sandbox, created) VALUES ($1, $2, $3, $4, $5)`,
		int64(k.Org), k.Key, hash, string(id), ms(k.Created))
	if isDuplicate(err) {
		return &hutch.Error{Kind: hutch.Conflict, Code: CodeKeyTaken, Msg: "this Idempotency-Key was used before", Err: err}
	}
	return err
}

// Idempotent returns the sandbox a client's key is tied to and the hash of the
// request that made it. found is false for a key that is not, or no more, known.
func (db *DB) Idempotent(ctx context.Context, org hutch.OrgID, key string) (id hutch.SandboxID, bodyHash []byte, found bool, err error) {
	_, err = one(ctx, db, func(r row) (struct{}, error) { return struct{}{}, r.Scan(&id, &bodyHash) },
		`SELECT sandbox, body_hash FROM idempotency WHERE org = $1 AND key = $2`, int64(org), key)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil, false, nil
	}
	return id, bodyHash, err == nil, fail("store.Idempotent", err)
}

// ForgetIdempotent unties a key, for a create that failed and left nothing.
// An unknown key is no error.
func (db *DB) ForgetIdempotent(ctx context.Context, org hutch.OrgID, key string) error {
	return fail("store.ForgetIdempotent", db.write(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM idempotency WHERE org = $1 AND key = $2`, int64(org), key)
		return err
	}))
}
