// Package token makes and checks the bearer tokens that open one sandbox: JWTs
// signed with Ed25519. The control plane mints them; the gateway and the guest
// check them with the public key. It owns the JWT library.
package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	audience = "hutch-sandbox"
	// MaxLen bounds a token in bytes; a longer one is refused unparsed.
	MaxLen = 4096
)

// Claims are what a token says.
type Claims struct {
	Sandbox string // the sandbox it opens
	Org     int64  // the organization that owns it
	ID      string // unique to the token
	Issued  time.Time
	Expires time.Time
}

type wire struct {
	Org int64 `json:"org"`
	jwt.RegisteredClaims
}

// Mint signs a token for sandbox. Times are cut to milliseconds on the wire.
func Mint(key ed25519.PrivateKey, sandbox string, org int64, issued, expires time.Time) (string, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails, since Go 1.24
	c := wire{Org: org, RegisteredClaims: jwt.RegisteredClaims{
		Subject:   sandbox,
		Audience:  jwt.ClaimStrings{audience},
		IssuedAt:  jwt.NewNumericDate(issued),
		ExpiresAt: jwt.NewNumericDate(expires),
		ID:        base64.RawURLEncoding.EncodeToString(id[:]),
	}}
	s, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return s, nil
}

// ErrExpired is returned by [Verify] for a token that was good once.
var ErrExpired = errors.New("token expired")

// Verify returns what a token says, if key signed it for a sandbox and it has
// not expired at now. The algorithm is fixed; the token's own word is ignored.
func Verify(key ed25519.PublicKey, s string, now time.Time) (Claims, error) {
	if len(s) > MaxLen || strings.Count(s, ".") != 2 {
		return Claims{}, errors.New("not a token")
	}
	var c wire
	_, err := jwt.ParseWithClaims(s, &c, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(30*time.Second), jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return now }))
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return Claims{}, ErrExpired
	case err != nil:
		return Claims{}, err
	case c.Subject == "" || c.IssuedAt == nil:
		return Claims{}, errors.New("token names no sandbox")
	}
	return Claims{Sandbox: c.Subject, Org: c.Org, ID: c.ID, Issued: c.IssuedAt.Time, Expires: c.ExpiresAt.Time}, nil
}
