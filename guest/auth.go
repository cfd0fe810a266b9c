package guest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/internal/token"
)

// A verifiedToken remembers one token that was good, because its user sends it
// with every request. It is worth nothing for another identity.
type verifiedToken struct {
	sum     [sha256.Size]byte
	of      *identity
	expires time.Time
}

// ready returns the identity, or the answer to those who come too early.
func (a *Agent) ready() (*identity, error) {
	if id := a.identity.Load(); id != nil {
		return id, nil
	}
	return nil, api.AgentError(api.CodeServiceUnavailable, "The sandbox is not ready yet; try again")
}

// authenticate checks that the request carries a token for this sandbox.
func (a *Agent) authenticate(r *http.Request) error {
	id, err := a.ready()
	if err != nil {
		return err
	}
	scheme, bearer, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if bearer = strings.TrimSpace(bearer); !ok || !strings.EqualFold(scheme, "Bearer") || bearer == "" {
		return api.AgentError(api.CodeAuthenticationRequired,
			"Authentication required: send the sandbox's token as Authorization: Bearer <auth_token>")
	}
	now := a.now()
	sum := sha256.Sum256([]byte(bearer))
	if v := a.verified.Load(); v != nil && v.of == id && now.Before(v.expires) && subtle.ConstantTimeCompare(v.sum[:], sum[:]) == 1 {
		return nil
	}
	claims, err := token.Verify(ed25519.PublicKey(id.TokenKey), bearer, now)
	switch {
	case errors.Is(err, token.ErrExpired):
		return api.AgentError(api.CodeTokenExpired, "Token expired: refresh it with POST /v1/sandboxes/"+id.SandboxID+"/token/refresh")
	case err != nil, claims.Sandbox != id.SandboxID:
		return api.AgentError(api.CodeInvalidToken, "Invalid or expired token")
	}
	a.verified.Store(&verifiedToken{sum: sum, of: id, expires: claims.Expires})
	return nil
}
