package network

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watchEvery is how often Watch looks at what sends no news, resolv.conf above all.
const watchEvery = 15 * time.Second

// Watch calls [Net.Refresh] whenever the kernel tells that somebody touched our
// tables, the default route, the subnet's route or forwarding, and every 15
// seconds besides. Above all it puts the filter back when the whole ruleset is
// flushed, as restarting a distribution's firewall service does. It returns when
// ctx ends, with nil, or when it cannot listen; failures of Refresh are logged.
// Run it in a goroutine for as long as there are guests.
func (n *Net) Watch(ctx context.Context) error {
	const op = "network.Watch"
	var listening sync.WaitGroup
	defer listening.Wait()
	changed := make(chan struct{}, 1)
	for _, s := range []struct {
		protocol int
		groups   []uint
		concerns func(syscall.NetlinkMessage) bool
	}{
		{unix.NETLINK_NETFILTER, []uint{unix.NFNLGRP_NFTABLES}, n.aboutTables},
		{unix.NETLINK_ROUTE, []uint{unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_NETCONF}, n.aboutRoutes},
	} {
		news, err := nl.Subscribe(s.protocol, s.groups...)
		if err != nil {
			return fail(op, hutch.Internal, "the kernel's news cannot be listened to", err)
		}
		defer news.Close() // ends the goroutine; runs before the wait for it
		listening.Go(func() { relay(news, s.concerns, changed) })
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := n.Refresh(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("the sandboxes' network is not in order", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// relay reports news of concern, until news is closed. Several that come while
// nobody looks are one.
func relay(news *nl.NetlinkSocket, concerns func(syscall.NetlinkMessage) bool, changed chan<- struct{}) {
	for {
		msgs, _, err := news.Receive()
		lost := errors.Is(err, unix.ENOBUFS) // more news than the socket could hold
		if err != nil && !lost {
			return
		}
		hit := lost
		for _, m := range msgs {
			hit = hit || concerns(m)
		}
		if hit {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// aboutTables picks changes of our tables' structure. Elements come and go with
// every guest, and are compared by the ticker.
func (n *Net) aboutTables(m syscall.NetlinkMessage) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN,
		unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET:
	default:
		return false
	}
	// The table's name is the first attribute's number in each of these.
	table, ok := attribute(m.Data, nfgenLen, 1)
	return ok && word(table) == n.tableName()
}

// Sizes of the headers before the attributes: struct nfgenmsg, struct netconfmsg.
const (
	nfgenLen   = 4
	netconfLen = 4
)

// Attributes and values of linux/netconf.h.
const (
	netconfIfindex    = 1
	netconfForwarding = 2
	netconfAll        = -1
)

// aboutRoutes picks the default route, our own, and forwarding of the host as a
// whole or of an uplink. Each guest changes routes and forwarding too, of its
// own link.
func (n *Net) aboutRoutes(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) < unix.SizeofRtMsg {
			return false
		}
		bits := int(m.Data[1])
		if bits == 0 {
			return true
		}
		dst, ok := attribute(m.Data, unix.SizeofRtMsg, unix.RTA_DST)
		return ok && m.Header.Type == unix.RTM_DELROUTE && bits == n.sub.Bits() && addrFrom(dst) == n.sub.Addr()
	case unix.RTM_NEWNETCONF:
		index, ok := attribute(m.Data, netconfLen, netconfIfindex)
		if !ok || len(index) != 4 {
			return false
		}
		if _, ok := attribute(m.Data, netconfLen, netconfForwarding); !ok {
			return false
		}
		i := int(int32(binary.NativeEndian.Uint32(index)))
		n.mu.Lock()
		defer n.mu.Unlock()
		return i == netconfAll || n.up.index[i] != ""
	}
	return false
}

// attribute finds an attribute after a header of the given length.
func attribute(data []byte, header int, kind uint16) ([]byte, bool) {
	if len(data) < header {
		return nil, false
	}
	attrs, err := nl.ParseRouteAttr(data[header:])
	if err != nil {
		return nil, false
	}
	for _, a := range attrs {
		if a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return a.Value, true
		}
	}
	return nil, false
}
