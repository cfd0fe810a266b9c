package network

import (
	"context"
	"fmt"

	"github.com/hutch-sh/hutch"
	"github.com/vishvananda/netlink"
)

// Refresh adapts to what changed on the host: it reads resolv.conf again, looks
// where the default route leads, and puts back what of the filter or the route
// somebody removed. It is cheap when nothing changed; call it every half minute
// or so, or leave that to [Net.Watch].
func (n *Net) Refresh(ctx context.Context) error {
	const op = "network.Refresh"
	if err := ctx.Err(); err != nil {
		return fail(op, hutch.KindOf(err), "looking after the network was given up", err)
	}
	n.readResolvers()
	if err := n.repair(); err != nil {
		return fail(op, hutch.Internal, "the sandboxes' network could not be put in order", err)
	}
	n.warnOfForeignDrop()
	return nil
}

// repair compares what is with what must be, and makes it so. The filter comes
// first: without it, guests whose links forward could reach anything.
func (n *Net) repair() error {
	unlock, err := n.lockHost()
	if err != nil {
		return err
	}
	defer unlock()
	n.gate.Lock()
	defer n.gate.Unlock()
	if n.purged() {
		return errPurged
	}
	ok, why, err := n.intact()
	if err != nil {
		return err
	}
	if !ok {
		if err := n.install(); err != nil {
			return err
		}
		n.log.Warn("the sandboxes' packet filter was not as it must be and has been made anew", "found", why)
	}
	if err := netlink.RouteReplace(unreachable(n.sub)); err != nil {
		return fmt.Errorf("route of the subnet: %w", err)
	}
	return n.findUplinks()
}
