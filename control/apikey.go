package control

import (
	"net/http"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/store"
)

// lives says when a key expires that is made now; zero is never. Its keys are
// [api.KeyLives].
var lives = map[string]func(time.Time) time.Time{
	"1month":  func(t time.Time) time.Time { return t.AddDate(0, 1, 0) },
	"3months": func(t time.Time) time.Time { return t.AddDate(0, 3, 0) },
	"6months": func(t time.Time) time.Time { return t.AddDate(0, 6, 0) },
	"1year":   func(t time.Time) time.Time { return t.AddDate(1, 0, 0) },
	"never":   func(time.Time) time.Time { return time.Time{} },
}

func (s *Server) listKeys(c *call) (reply, error) {
	keys, err := s.activeKeys(c)
	if err != nil {
		return reply{}, err
	}
	now := s.cfg.Now()
	shown := []api.Key{}
	for _, k := range keys {
		shown = append(shown, showKey(k, now))
	}
	return ok(api.KeyList{Success: true, APIKeys: shown, Keys: shown, Count: len(shown), RequestID: c.id})
}

func (s *Server) createKey(c *call) (reply, error) {
	now := s.cfg.Now()
	name, expires, err := decodeCreateKey(c.body, now)
	if err != nil {
		return reply{}, err
	}
	have, err := s.activeKeys(c)
	if err != nil {
		return reply{}, err
	}
	if len(have) >= s.maxKeys {
		return reply{}, &hutch.Error{
			Kind: hutch.Forbidden, Op: "control.createKey", Msg: "The limit of API keys is reached: revoke one first",
			Details: map[string]any{"limit": s.maxKeys, "current": len(have), "available": 0},
		}
	}
	full, k, err := MintKey(c.Context(), s.db, c.org(), name, now, expires)
	if err != nil {
		return reply{}, err
	}
	return reply{http.StatusCreated, api.CreatedKey{
		Success: true, Message: "API key made: it is shown only once", ID: k.ID,
		APIKey: showKey(k, now), FullKey: full, Key: full, RequestID: c.id,
	}}, nil
}

func (s *Server) key(c *call) (reply, error) {
	k, err := s.ownKey(c)
	if err != nil {
		return reply{}, err
	}
	return ok(api.KeyAnswer{Success: true, APIKey: showKey(k, s.cfg.Now()), RequestID: c.id})
}

// revokeKey ends a key at once, even the one that asks.
func (s *Server) revokeKey(c *call) (reply, error) {
	k, err := s.ownKey(c)
	if err != nil {
		return reply{}, err
	}
	if err := s.db.RevokeKey(c.Context(), c.org(), k.ID); err != nil {
		return reply{}, keyError(err)
	}
	return ok(api.RevokedKey{Success: true, Message: "API key revoked", ID: k.ID, RequestID: c.id})
}

// activeKeys returns the caller's organization's keys that are not revoked.
func (s *Server) activeKeys(c *call) ([]store.Key, error) {
	keys, err := s.db.Keys(c.Context(), c.org())
	if err != nil {
		return nil, err
	}
	var active []store.Key
	for _, k := range keys {
		if k.Revoked.IsZero() {
			active = append(active, k)
		}
	}
	return active, nil
}

// ownKey returns the key that the path names, if it is the caller's
// organization's and not revoked.
func (s *Server) ownKey(c *call) (store.Key, error) {
	id := c.PathValue("key")
	if len(id) != keyIDLen {
		return store.Key{}, keyError(&hutch.Error{Kind: hutch.NotFound, Op: "control.ownKey"})
	}
	k, err := s.db.Key(c.Context(), id)
	if err != nil {
		return store.Key{}, keyError(err)
	}
	if k.Org != c.org() || !k.Revoked.IsZero() {
		return store.Key{}, keyError(&hutch.Error{Kind: hutch.NotFound, Op: "control.ownKey"})
	}
	return k, nil
}

func keyError(err error) error {
	if hutch.KindOf(err) != hutch.NotFound {
		return err
	}
	return notFound("API key not found", err)
}
