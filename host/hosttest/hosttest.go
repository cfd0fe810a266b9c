// Package hosttest is a machine without root for tests of a host and of what
// stands above it: a network that makes nothing, images that are not there and
// an agent that agrees to everything.
package hosttest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host"
	"github.com/hutch-sh/hutch/host/network"
	"github.com/hutch-sh/hutch/internal/handshake"
)

var (
	_ host.Network = (*Links)(nil)
	_ host.Images  = Images{}
	_ host.Guest   = (*Agent)(nil)
)

// Links implements [host.Network]. It makes nothing, and knows what it would
// have made.
type Links struct {
	mu       sync.Mutex
	owner    map[int]hutch.SandboxID
	attached map[int]bool
}

// NewLinks returns a network without any link.
func NewLinks() *Links {
	return &Links{owner: map[int]hutch.SandboxID{}, attached: map[int]bool{}}
}

// Left says what has not been given back.
func (l *Links) Left() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var what []string
	for slot, id := range l.owner {
		what = append(what, fmt.Sprintf("slot %d of %s", slot, id))
	}
	for slot := range l.attached {
		what = append(what, fmt.Sprintf("link %d", slot))
	}
	return what
}

// Reserve implements [host.Network].
func (l *Links) Reserve(id hutch.SandboxID) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for slot := 0; ; slot++ {
		if _, taken := l.owner[slot]; !taken {
			l.owner[slot] = id
			return slot, nil
		}
	}
}

// Adopt implements [host.Network].
func (l *Links) Adopt(id hutch.SandboxID, slot int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, taken := l.owner[slot]; taken && was != id {
		return fmt.Errorf("slot %d is %s's", slot, was)
	}
	l.owner[slot] = id
	return nil
}

// Attach implements [host.Network].
func (l *Links) Attach(ctx context.Context, slot int, _ bool) (network.Link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.attached[slot] {
		return network.Link{}, fmt.Errorf("slot %d is attached", slot)
	}
	if err := ctx.Err(); err != nil {
		return network.Link{}, err
	}
	l.attached[slot] = true
	return l.Plan(slot), nil
}

// Detach implements [host.Network].
func (l *Links) Detach(slot int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.attached, slot)
	return nil
}

// Free implements [host.Network].
func (l *Links) Free(slot int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.owner, slot)
}

// Plan implements [host.Network].
func (l *Links) Plan(slot int) network.Link {
	return network.Link{Slot: slot, Guest: netip.AddrFrom4([4]byte{10, 0, byte(slot), 2})}
}

// Found implements [host.Network].
func (l *Links) Found() ([]int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var slots []int
	for s := range l.attached {
		slots = append(slots, s)
	}
	return slots, nil
}

// Images implements [host.Images]: every image is there but "missing".
type Images struct{}

// Rootfs implements [host.Images].
func (Images) Rootfs(d hutch.Digest) (string, error) {
	if d == "missing" {
		return "", &hutch.Error{Kind: hutch.NotFound, Msg: "no such image"}
	}
	return "/images/" + string(d), nil
}

// Agent implements [host.Guest]. It agrees to everything, unless told otherwise.
type Agent struct {
	OnGreet    func(ctx context.Context) error
	OnShutdown func(ctx context.Context) error
}

// Greet implements [host.Guest].
func (a *Agent) Greet(ctx context.Context, _ netip.Addr, _ handshake.Identity) error {
	if a.OnGreet != nil {
		return a.OnGreet(ctx)
	}
	return nil
}

// Shutdown implements [host.Guest].
func (a *Agent) Shutdown(ctx context.Context, _ netip.Addr, _ handshake.Shutdown) error {
	if a.OnShutdown != nil {
		return a.OnShutdown(ctx)
	}
	return nil
}
