package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func keys(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pub, priv
}

func TestMintVerify(t *testing.T) {
	pub, priv := keys(t)
	s, err := Mint(priv, "sx", 7, now, now.Add(time.Hour))
	if err != nil || !strings.HasPrefix(s, "eyJ") {
		t.Fatal(s, err)
	}
	c, err := Verify(pub, s, now)
	if err != nil || c.Sandbox != "sx" || c.Org != 7 || !c.Expires.Equal(now.Add(time.Hour)) || c.ID == "" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := Verify(pub, s, now.Add(2*time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	other, _ := keys(t)
	if _, err := Verify(other, s, now); err == nil || errors.Is(err, ErrExpired) {
		t.Errorf("another key's: %v", err)
	}
}

// Tokens that somebody made up.
func TestForged(t *testing.T) {
	pub, priv := keys(t)
	good, err := Mint(priv, "sx", 7, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	part := strings.Split(good, ".")
	enc := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	sign := func(c jwt.Claims) string {
		s, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c).SignedString(priv)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	claims := jwt.MapClaims{"sub": "sx", "aud": audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	without := func(name string) jwt.MapClaims {
		c := jwt.MapClaims{}
		for k, v := range claims {
			if k != name {
				c[k] = v
			}
		}
		return c
	}
	hmac, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(pub))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{
		"empty":            "",
		"two parts":        part[0] + "." + part[1],
		"four parts":       good + ".x",
		"only dots":        strings.Repeat(".", 100_000),
		"too long":         good + strings.Repeat("a", MaxLen),
		"no signature":     part[0] + "." + part[1] + ".",
		"other claims":     part[0] + "." + enc(claims) + "." + part[2],
		"algorithm none":   enc(map[string]string{"alg": "none"}) + "." + part[1] + ".",
		"HMAC by the key":  hmac,
		"other audience":   sign(jwt.MapClaims{"sub": "sx", "aud": "x", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}),
		"no audience":      sign(without("aud")),
		"no expiry":        sign(without("exp")),
		"no subject":       sign(without("sub")),
		"no time of issue": sign(without("iat")),
		"issued in future": sign(jwt.MapClaims{"sub": "sx", "aud": audience, "iat": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}),
	} {
		if c, err := Verify(pub, s, now); err == nil {
			t.Errorf("%s: accepted as %+v", name, c)
		}
	}
}

func FuzzVerify(f *testing.F) {
	pub, priv := keys(f)
	good, err := Mint(priv, "sx", 7, now, now.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := Verify(pub, s, now); err == nil && s != good {
			t.Errorf("accepted %q", s)
		}
	})
}
