package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/store"
)

// touchEvery is how exact a key's last use is remembered.
const touchEvery = time.Minute

// authenticate returns the key that r bears, or why it is not let in. When the
// store does not answer nobody is let in.
func (s *Server) authenticate(r *http.Request) (store.Key, error) {
	full, err := credential(r.Header)
	if err != nil {
		return store.Key{}, err
	}
	id, err := parseKey(full)
	if err != nil {
		return store.Key{}, refused("This is not an API key: it " + err.Error())
	}
	k, err := s.db.Key(r.Context(), id)
	known := err == nil
	if !known && hutch.KindOf(err) != hutch.NotFound {
		return store.Key{}, err
	}
	// An unknown id takes the same way as a wrong secret.
	sum := sha256.Sum256([]byte(full))
	if subtle.ConstantTimeCompare(sum[:], k.Hash) != 1 || !known || !k.Revoked.IsZero() {
		return store.Key{}, refused("The API key is not valid, or was revoked")
	}
	if !k.Expires.IsZero() && !s.cfg.Now().Before(k.Expires) {
		return store.Key{}, refused("The API key has expired: make a new one")
	}
	return k, nil
}

// touch remembers that k was used. What it cannot write it only logs: nobody is
// turned away for it.
func (s *Server) touch(ctx context.Context, k store.Key) {
	now := s.cfg.Now()
	if now.Sub(k.LastUsed) < touchEvery || !s.limits.touch(k.ID, now) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.db.TouchKey(ctx, k.ID, now); err != nil {
		api.Log(ctx).Warn("last use of a key not recorded", "key", k.ID, "error", err)
	}
}

// credential returns the one API key that h carries. It may stand in X-API-Key,
// as a Bearer in Authorization, or the same in both; two different ones are
// refused, because which of them counts would be a guess.
func credential(h http.Header) (string, error) {
	var found []string
	for _, v := range h.Values("X-Api-Key") {
		found = append(found, strings.TrimSpace(v))
	}
	for _, v := range h.Values("Authorization") {
		scheme, rest, _ := strings.Cut(strings.TrimSpace(v), " ")
		if scheme != "" && !strings.EqualFold(scheme, "Bearer") {
			return "", refused("The Authorization header must be \"Bearer\" and an API key")
		}
		found = append(found, strings.TrimSpace(rest))
	}
	var one string
	for _, v := range found {
		switch {
		case v == "":
		case one == "":
			one = v
		case subtle.ConstantTimeCompare([]byte(one), []byte(v)) != 1:
			return "", refused("The request carries two different credentials: send one")
		}
	}
	if one == "" {
		return "", &hutch.Error{
			Kind: hutch.Unauthenticated, Code: api.CodeAuthenticationRequired, Op: "control.authenticate",
			Msg: "API key missing: authentication required. Send it as X-API-Key or as Authorization: Bearer",
		}
	}
	return one, nil
}

// refused is a 401. Its message has the word "authentication", which the
// command line of HopX looks for.
func refused(why string) error {
	return &hutch.Error{
		Kind: hutch.Unauthenticated, Code: api.CodeInvalidToken, Op: "control.authenticate",
		Msg: why + " (authentication failed)",
	}
}
