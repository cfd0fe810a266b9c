package network

import (
	"fmt"

	"github.com/hutch-sh/hutch"
)

// Capacity returns how many guests the subnet has addresses for.
func (n *Net) Capacity() int { return n.cap }

// Reserve gives id the lowest slot that nobody has, in memory only. An id that
// has a slot gets the same again. When all are taken the error is Unavailable.
func (n *Net) Reserve(id hutch.SandboxID) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if slot, ok := n.of[id]; ok {
		return slot, nil
	}
	for ; n.free < n.cap; n.free++ {
		if _, taken := n.slots[n.free]; !taken {
			slot := n.free
			n.slots[slot], n.of[id] = id, slot
			n.free++
			return slot, nil
		}
	}
	return 0, fail("network.Reserve", hutch.Unavailable, "this host has no room for another sandbox's network", nil)
}

// Adopt says, after a restart, that slot belongs to id. A slot of somebody
// else's, or an id with another slot, is a Conflict.
func (n *Net) Adopt(id hutch.SandboxID, slot int) error {
	const op = "network.Adopt"
	if err := n.inRange(op, slot); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if has, ok := n.slots[slot]; ok && has != id {
		return fail(op, hutch.Conflict, fmt.Sprintf("network slot %d belongs to another sandbox", slot), nil)
	}
	if has, ok := n.of[id]; ok && has != slot {
		return fail(op, hutch.Conflict, fmt.Sprintf("the sandbox has network slot %d already", has), nil)
	}
	n.slots[slot], n.of[id] = id, slot
	return nil
}

// Free gives the number back. Call it when [Net.Detach] has returned nil, not
// before: the next owner would find leftovers. Freeing a free slot does nothing.
func (n *Net) Free(slot int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id, ok := n.slots[slot]
	if !ok {
		return
	}
	delete(n.slots, slot)
	delete(n.of, id)
	n.free = min(n.free, slot)
}

func (n *Net) inRange(op string, slot int) error {
	if slot < 0 || slot >= n.cap {
		return fail(op, hutch.Invalid, fmt.Sprintf("there is no network slot %d", slot), nil)
	}
	return nil
}
