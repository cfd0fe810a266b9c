package gateway

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
)

// LinkParam is the query parameter that carries a signed link's proof. The
// gateway takes it off before the guest sees the request.
const LinkParam = "hutch_token"

// SignLink returns the value of [LinkParam] that opens one port of a sandbox
// with private previews until expires: for a browser, which cannot send a
// token. Whoever has the link can see the preview and nothing else; it never
// opens the agent. It dies with the sandbox.
func SignLink(key ed25519.PrivateKey, id hutch.SandboxID, port uint16, expires time.Time) string {
	unix := uint64(expires.Unix())
	b := binary.BigEndian.AppendUint64(nil, unix)
	return base64.RawURLEncoding.EncodeToString(append(b, ed25519.Sign(key, linkMessage(id, port, unix))...))
}

func verifyLink(key ed25519.PublicKey, id hutch.SandboxID, port uint16, value string, now time.Time) bool {
	if port == hutch.AgentPort || len(value) > 128 {
		return false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(b) != 8+ed25519.SignatureSize {
		return false
	}
	unix := binary.BigEndian.Uint64(b)
	return ed25519.Verify(key, linkMessage(id, port, unix), b[8:]) && uint64(now.Unix()) < unix
}

// linkMessage begins with a word that nothing else signed with the key does.
func linkMessage(id hutch.SandboxID, port uint16, unix uint64) []byte {
	return fmt.Appendf(nil, "hutch preview link v1\n%s\n%d\n%d", id, port, unix)
}

// cutLink takes every [LinkParam] off a raw query and leaves the rest as it was.
func cutLink(raw string) (rest string, values []string) {
	if raw == "" {
		return "", nil
	}
	var kept []string
	for part := range strings.SplitSeq(raw, "&") {
		k, v, _ := strings.Cut(part, "=")
		if k, err := url.QueryUnescape(k); err != nil || k != LinkParam {
			kept = append(kept, part)
			continue
		}
		if v, err := url.QueryUnescape(v); err == nil {
			values = append(values, v)
		}
	}
	return strings.Join(kept, "&"), values
}

// question returns a raw query with its question mark, or nothing.
func question(raw string) string {
	if raw == "" {
		return ""
	}
	return "?" + raw
}
