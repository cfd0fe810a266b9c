// Package payload holds the programs that hutch carries inside itself: the
// slim sandbox runtime and the guest agent. `make build` packs them; a server
// unpacks them once, under the SHA-256 of their bytes.
//
// It knows bytes and digests. It must not know what the programs do.
package payload
