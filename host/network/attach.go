package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/hutch-sh/hutch"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attach makes everything a guest's network consists of. The filter is in before
// the link carries its first packet. With internet false the guest can answer
// the host and nothing else. What an interrupted Attach or Detach of the same
// slot left is removed first. On error nothing is left.
func (n *Net) Attach(ctx context.Context, slot int, internet bool) (Link, error) {
	const op = "network.Attach"
	if err := n.inRange(op, slot); err != nil {
		return Link{}, err
	}
	if err := ctx.Err(); err != nil {
		return Link{}, fail(op, hutch.KindOf(err), "the sandbox's network was given up", err)
	}
	l := n.Plan(slot)
	if !internet {
		l.DNS = nil
	}
	err := n.attach(l, internet)
	switch {
	case errors.Is(err, unix.EEXIST): // leftovers, removed by now
		err = n.attach(l, internet)
	case gone(err): // the tables were deleted by somebody
		if err = n.repair(); err == nil {
			err = n.attach(l, internet)
		}
	}
	if err != nil {
		return Link{}, fail(op, hutch.Internal, "the sandbox's network could not be made", err)
	}
	if err := ctx.Err(); err != nil {
		return Link{}, fail(op, hutch.KindOf(err), "the sandbox's network was given up", errors.Join(err, n.Detach(slot)))
	}
	return l, nil
}

// attach tries once, and removes everything if that fails.
func (n *Net) attach(l Link, internet bool) error {
	n.gate.RLock()
	defer n.gate.RUnlock()
	n.mu.Lock()
	mtu, over := n.up.mtu, n.over
	n.mu.Unlock()
	if over {
		return errPurged
	}
	var inside *netlink.Handle
	err := n.inThread(func() (err error) {
		inside, err = n.makeGuestSide(l, mtu)
		return err
	})
	if inside != nil {
		defer inside.Close()
	}
	if err == nil {
		err = n.makeHostSide(l, internet, inside)
	}
	if err != nil {
		if left := n.remove(l); left != nil {
			return fmt.Errorf("%w (and not all of it could be removed: %w)", err, left)
		}
	}
	return err
}

// Readdress makes the namespace of a slot ready for another start: gVisor takes
// the address off the link when it starts, so a namespace that was used has
// none. It changes nothing if the address is there. The filter is not touched,
// it never went away.
func (n *Net) Readdress(slot int) error {
	const op = "network.Readdress"
	if err := n.inRange(op, slot); err != nil {
		return err
	}
	l := n.Plan(slot)
	err := n.inThread(func() error {
		if err := enterNamespace(l.NetNS); err != nil {
			return err
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return addressGuest(h, l)
	})
	if err != nil {
		return fail(op, hutch.Internal, "the sandbox's network could not be made ready again", err)
	}
	return nil
}
