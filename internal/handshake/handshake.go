// Package handshake is the private talk between a host and the agent it put
// into a sandbox: how the host tells a booted (or, later, restored) agent who
// it is, and asks it to end its user's processes. Users never speak it.
//
// The agent starts knowing one thing, the host's Ed25519 public key, given on
// its command line. Until an [Identity] signed by that key has arrived it
// answers every user with 503. A request to a path below [Prefix] carries
// "Authorization: Hutch <base64url signature of the body>".
package handshake

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
)

// Paths on the agent's port.
const (
	Prefix       = "/_hutch/"
	IdentityPath = Prefix + "identity" // POST an Identity
	ShutdownPath = Prefix + "shutdown" // POST a Shutdown
)

// MaxBody bounds the body of a handshake request, in bytes.
const MaxBody = 4 << 20

// ReadyLine is what the agent's init writes to its standard output, once, when
// the agent listens. The host reads it from the pipe it started the sandbox with.
const ReadyLine = "hutch-agent ready\n"

// An Identity makes an agent the agent of one sandbox.
type Identity struct {
	SandboxID string            `json:"sandbox_id"`
	TokenKey  []byte            `json:"token_key"` // Ed25519 public key of user tokens
	Hostname  string            `json:"hostname"`
	Env       map[string]string `json:"env"`       // the owner's environment at create
	Base      map[string]string `json:"base"`      // the template's environment
	Workdir   string            `json:"workdir"`   // the template's working directory, or ""
	DNS       []string          `json:"dns"`       // resolver addresses; none: no name resolution
	ExtraCA   string            `json:"extra_ca"`  // PEM certificates to trust beside the image's own, or ""
	UnixNano  int64             `json:"unix_nano"` // the host's clock
	VCPU      int               `json:"vcpu"`
	MemoryMB  int               `json:"memory_mb"`
	DiskMB    int               `json:"disk_mb"`
	Seed      []byte            `json:"seed"` // fresh random bytes, for guests restored from one snapshot
}

// A Shutdown asks the agent to end every process it started for its user:
// SIGTERM, then SIGKILL after Grace. It answers when none is left.
type Shutdown struct {
	SandboxID string `json:"sandbox_id"`
	GraceMS   int    `json:"grace_ms"`
}

const scheme = "Hutch "

// Sign returns the Authorization header value for body.
func Sign(key ed25519.PrivateKey, path string, body []byte) string {
	return scheme + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, message(path, body)))
}

// Verify checks an Authorization header value made by [Sign].
func Verify(key ed25519.PublicKey, path string, body []byte, header string) error {
	s, ok := strings.CutPrefix(header, scheme)
	if !ok {
		return errors.New("no host signature")
	}
	sig, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return errors.New("host signature is not base64url")
	}
	if !ed25519.Verify(key, message(path, body), sig) {
		return errors.New("host signature does not match")
	}
	return nil
}

func message(path string, body []byte) []byte {
	return append([]byte("hutch handshake v1\n"+path+"\n"), body...)
}
