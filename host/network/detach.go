package network

import (
	"errors"
	"fmt"

	"github.com/hutch-sh/hutch"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Detach removes everything of a slot: the link, its elements of the filter, its
// connections and the namespace's name. It returns nil when none of these exist
// any more, also if they never did; after an error, asking again does what is
// left. The namespace itself ends with its last process. A slot beyond the
// capacity may be left from a larger subnet and is removed too.
func (n *Net) Detach(slot int) error {
	const op = "network.Detach"
	if slot < 0 {
		return n.inRange(op, slot)
	}
	n.gate.RLock()
	defer n.gate.RUnlock()
	if err := n.remove(n.Plan(slot)); err != nil {
		return fail(op, hutch.Internal, "the sandbox's network could not be removed", err)
	}
	return nil
}

// remove takes every step whatever becomes of the others. Their order does not
// matter for safety: a link that is not in the filter carries nothing.
func (n *Net) remove(l Link) error {
	var errs []error
	for _, s := range []struct {
		name string
		do   func(Link) error
	}{
		{"unlink", n.deleteLink},
		{"expel", n.expel},
		{"forget", n.forget},
		{"unname", func(l Link) error { return dropNamespace(l.NetNS) }},
	} {
		err := n.step(s.name)
		if err == nil {
			err = s.do(l)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}

// forget deletes the guest's connections. A slot beyond the capacity has no
// address of ours.
func (n *Net) forget(l Link) error {
	if l.Slot >= n.cap {
		return nil
	}
	return n.wire.forgetFlows(l.Guest)
}

// deleteLink removes a link and returns when it is not there any more. The
// kernel takes about a millisecond for that and then keeps its caller for two
// RCU grace periods (15 to 30 ms) while it frees the memory of what nobody can
// find; a thread of its own sits that out, and Close waits for it.
func (n *Net) deleteLink(l Link) error {
	link, err := netlink.LinkByName(l.HostIf)
	if isNoLink(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up %s: %w", l.HostIf, err)
	}
	index := link.Attrs().Index
	news, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("listen for interfaces: %w", err)
	}
	defer news.Close() // ends the second goroutine
	done := make(chan error, 1)
	heard := make(chan struct{})
	n.deferred.Go(func() { done <- netlink.LinkDel(link) })
	n.deferred.Go(func() { defer close(heard); hearDeletion(news, index) })
	select {
	case err = <-done:
	case <-heard:
		if _, err = netlink.LinkByIndex(index); isNoLink(err) {
			return nil
		}
		err = <-done // it was not the deletion that ended the wait
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", l.HostIf, err)
	}
	return nil
}

// hearDeletion returns when the news say that the interface is gone, or when
// there can be no more news.
func hearDeletion(news *nl.NetlinkSocket, index int) {
	for {
		msgs, _, err := news.Receive()
		if err != nil {
			return // closed, or news were lost: whoever waits looks for himself
		}
		for _, m := range msgs {
			if m.Header.Type == unix.RTM_DELLINK && len(m.Data) >= unix.SizeofIfInfomsg &&
				int(nl.DeserializeIfInfomsg(m.Data).Index) == index {
				return
			}
		}
	}
}
