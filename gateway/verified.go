package gateway

import (
	"crypto/ed25519"
	"sync"
	"time"

	"github.com/hutch-sh/hutch/internal/token"
)

// maxVerified bounds how many tokens are remembered.
const maxVerified = 4096

// verified remembers tokens whose signature was good, because checking one
// takes longer than carrying a request. It keeps nothing about bad ones, and
// nothing that can become untrue: expiry is looked at every time, and whether
// the sandbox still lives is for its route to say.
type verified struct {
	key ed25519.PublicKey

	mu   sync.Mutex
	good map[string]token.Claims
}

func (v *verified) claims(tok string, now time.Time) (token.Claims, error) {
	v.mu.Lock()
	c, ok := v.good[tok]
	v.mu.Unlock()
	if ok && now.Before(c.Expires) && !now.Before(c.Issued) {
		return c, nil
	}
	c, err := token.Verify(v.key, tok, now)
	if err != nil {
		return token.Claims{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.good == nil || len(v.good) >= maxVerified {
		v.good = map[string]token.Claims{}
	}
	v.good[tok] = c
	return c, nil
}
