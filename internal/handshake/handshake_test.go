package handshake

import (
	"crypto/ed25519"
	"testing"
)

func TestSignVerify(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"sandbox_id":"sx"}`)
	good := Sign(priv, IdentityPath, body)
	if err := Verify(pub, IdentityPath, body, good); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another key":    Verify(other, IdentityPath, body, good),
		"another path":   Verify(pub, ShutdownPath, body, good),
		"another body":   Verify(pub, IdentityPath, append(body, ' '), good),
		"no header":      Verify(pub, IdentityPath, body, ""),
		"another scheme": Verify(pub, IdentityPath, body, "Bearer "+good),
		"not base64":     Verify(pub, IdentityPath, body, scheme+"!"),
		"short":          Verify(pub, IdentityPath, body, scheme+"AAAA"),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
