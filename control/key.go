package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/control/store"
)

// An API key is "hopx_live_", an id, a dot, and a secret of 256 random bits.
// Clients of HopX check that shape and split it at the one dot.
const (
	keyPrefix     = "hopx_live_"
	keyIDLen      = 12
	keySecretLen  = 43
	base62        = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	base64URL     = base62 + "-_"
	maxKeyNameLen = 100
)

// MintKey makes a key for org and stores what is needed to know it again, which
// is not the key: what it returns cannot be had a second time. A zero expires
// means never. On error nothing was stored.
func MintKey(ctx context.Context, db *store.DB, org hutch.OrgID, name string, now, expires time.Time) (full string, k store.Key, err error) {
	if err := keyName(name); err != nil {
		return "", store.Key{}, err
	}
	var secret [32]byte
	rand.Read(secret[:]) // never fails, since Go 1.24
	full = keyPrefix + newKeyID() + "." + base64.RawURLEncoding.EncodeToString(secret[:])
	k, err = insertKey(ctx, db, org, full, name, now, expires)
	if err != nil {
		return "", store.Key{}, err
	}
	return full, k, nil
}

// InstallKey stores a key that the operator chose, so that it works from the
// first start. Installing it again changes nothing. It returns Invalid for a
// key of the wrong shape, and Conflict if the key was revoked or if its id
// belongs to another key; no message has any part of the secret.
func InstallKey(ctx context.Context, db *store.DB, org hutch.OrgID, full, name string, now time.Time) (store.Key, error) {
	id, err := parseKey(full)
	if err != nil {
		return store.Key{}, &hutch.Error{
			Kind: hutch.Invalid, Op: "control.InstallKey",
			Msg: fmt.Sprintf("The API key %v: it must be %q, %d letters or digits, a dot, and %d of A-Z a-z 0-9 - _",
				err, keyPrefix, keyIDLen, keySecretLen),
		}
	}
	if err := keyName(name); err != nil {
		return store.Key{}, err
	}
	k, err := db.Key(ctx, id)
	switch {
	case hutch.KindOf(err) == hutch.NotFound:
		return insertKey(ctx, db, org, full, name, now, time.Time{})
	case err != nil:
		return store.Key{}, err
	}
	sum := sha256.Sum256([]byte(full))
	switch {
	case k.Org != org || subtle.ConstantTimeCompare(sum[:], k.Hash) != 1:
		err = errors.New("has the id of another key: change the 12 characters before the dot")
	case !k.Revoked.IsZero():
		err = errors.New("was revoked: choose another")
	default:
		return k, nil
	}
	return store.Key{}, &hutch.Error{Kind: hutch.Conflict, Op: "control.InstallKey", Msg: "The API key " + id + " " + err.Error()}
}

func insertKey(ctx context.Context, db *store.DB, org hutch.OrgID, full, name string, now, expires time.Time) (store.Key, error) {
	id, err := parseKey(full)
	if err != nil {
		return store.Key{}, &hutch.Error{Op: "control.insertKey", Msg: "made a key that has not the shape of one", Err: err}
	}
	sum := sha256.Sum256([]byte(full))
	k := store.Key{ID: id, Org: org, Name: name, Hash: sum[:], Created: now, Expires: expires}
	return k, db.InsertKey(ctx, k)
}

// parseKey returns the id in full, or what is wrong with its shape, told
// without any part of it.
func parseKey(full string) (id string, err error) {
	rest, ok := strings.CutPrefix(full, keyPrefix)
	if !ok {
		return "", fmt.Errorf("does not begin with %q", keyPrefix)
	}
	id, secret, ok := strings.Cut(rest, ".")
	switch {
	case !ok:
		return "", errors.New("has no dot")
	case len(id) != keyIDLen:
		return "", fmt.Errorf("has %d characters between %q and the dot where there should be %d", len(id), keyPrefix, keyIDLen)
	case strings.Trim(id, base62) != "":
		return "", errors.New("has other characters than letters and digits before the dot")
	case len(secret) != keySecretLen:
		return "", fmt.Errorf("has %d characters after the dot where there should be %d", len(secret), keySecretLen)
	case strings.Trim(secret, base64URL) != "":
		return "", errors.New("has other characters than A-Z a-z 0-9 - _ after the dot")
	}
	return id, nil
}

// newKeyID draws an id without favouring any digit.
func newKeyID() string {
	const fair = 256 - 256%len(base62)
	id := make([]byte, 0, keyIDLen)
	for len(id) < keyIDLen {
		var b [1]byte
		rand.Read(b[:])
		if int(b[0]) < fair {
			id = append(id, base62[int(b[0])%len(base62)])
		}
	}
	return string(id)
}

func keyName(name string) error {
	if name == "" || len(name) > maxKeyNameLen || !printable(name) {
		return invalid("name", "name must have 1 to %d printable characters", maxKeyNameLen)
	}
	return nil
}
