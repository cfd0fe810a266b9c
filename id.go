package hutch

import (
	"crypto/rand"
	"encoding/base32"
	"strings"
)

// idLen is the length of a SandboxID: 's' and 20 base32 digits, 100 random bits.
const idLen = 21

var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewSandboxID returns a fresh id: one DNS label of [a-z2-7] that begins with a
// letter, so that it may stand in a host name, a file name or a cgroup.
func NewSandboxID() SandboxID {
	var b [13]byte
	rand.Read(b[:]) // never fails, since Go 1.24
	return SandboxID("s" + lower32.EncodeToString(b[:])[:idLen-1])
}

// Valid reports whether id has the shape of an id made by [NewSandboxID]. Every
// path or kernel object named after an id is preceded by this check.
func (id SandboxID) Valid() bool {
	if len(id) != idLen || id[0] != 's' {
		return false
	}
	return strings.Trim(string(id), "abcdefghijklmnopqrstuvwxyz234567") == ""
}
