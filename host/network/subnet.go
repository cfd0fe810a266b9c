package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/hutch-sh/hutch"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// candidates are the subnets tried in this order: parts of private ranges that
// container tools, clouds and home routers do not begin with, then ranges that
// are private in fact.
var candidates = func() []netip.Prefix {
	var ps []netip.Prefix
	for i := 213; i <= 250; i++ {
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16))
	}
	ps = append(ps, prefixes("172.23.0.0/16", "172.27.0.0/16", "172.29.0.0/16")...)
	for i := 96; i <= 111; i++ {
		ps = append(ps, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i), 0, 0}), 16))
	}
	return append(ps, prefixes("198.18.0.0/16", "198.19.0.0/16")...)
}()

// widest is the shortest prefix of a route that is taken for a network. Wider
// ones, such as the two halves a VPN lays over everything, are ways out.
const widest = 8

// routeOrigin marks our route, as "proto 72".
const routeOrigin = 72

// remembered is the file in Dir.
type remembered struct {
	Subnet netip.Prefix `json:"subnet"`
}

// claimSubnet decides which subnet is ours, remembers it, and makes it
// unreachable but for the links: what is sent to a guest that is gone must not
// leave the host for whoever has the address elsewhere. The route also tells
// others that the subnet is taken. The caller holds the host's lock.
func (n *Net) claimSubnet() (netip.Prefix, error) {
	const op = "network.Open"
	internal := func(msg string, err error) (netip.Prefix, error) {
		return netip.Prefix{}, fail(op, hutch.Internal, msg, err)
	}
	known, err := n.recall()
	if err != nil {
		return internal("the network's state file cannot be read", err)
	}
	used, err := n.usedPrefixes()
	if err != nil {
		return internal("the host's routes cannot be read", err)
	}
	sub := n.cfg.Subnet
	switch {
	case sub.IsValid():
		if at, taken := used.near(sub); taken {
			return netip.Prefix{}, fail(op, hutch.Conflict, fmt.Sprintf("the subnet %v overlaps %v, which this host is part of; choose another", sub, at), nil)
		}
	default:
		tried := candidates
		if known.Subnet.IsValid() {
			tried = append([]netip.Prefix{known.Subnet}, candidates...)
		}
		for _, p := range tried {
			at, taken := used.any(p)
			if !taken {
				sub = p
				break
			}
			if p == known.Subnet {
				n.log.Warn("the subnet used so far is taken by somebody else; another is picked", "subnet", p, "overlaps", at)
			}
		}
		if !sub.IsValid() {
			return netip.Prefix{}, fail(op, hutch.Conflict, "no private network is free on this host; configure a subnet", nil)
		}
	}
	if sub != known.Subnet {
		if err := n.remember(remembered{Subnet: sub}); err != nil {
			return internal("the network's state file cannot be written", err)
		}
		if known.Subnet.IsValid() {
			if err := dropRoute(known.Subnet); err != nil {
				return internal("the route of the former subnet cannot be removed", err)
			}
		}
	}
	if err := netlink.RouteReplace(unreachable(sub)); err != nil {
		return internal("the subnet's route cannot be added", err)
	}
	return sub, nil
}

func unreachable(sub netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(sub.Addr(), sub.Bits()), Type: unix.RTN_UNREACHABLE,
		Table: unix.RT_TABLE_MAIN, Protocol: routeOrigin,
	}
}

// dropRoute removes our route for sub, if it is there.
func dropRoute(sub netip.Prefix) error {
	if err := netlink.RouteDel(unreachable(sub)); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// used is what a subnet may collide with.
type used struct {
	own    []netip.Prefix // networks the host is part of, and other installations
	routed []netip.Prefix // networks the host has a route to
}

func (u used) near(p netip.Prefix) (netip.Prefix, bool) { return overlap(p, u.own) }

func (u used) any(p netip.Prefix) (netip.Prefix, bool) {
	if at, taken := u.near(p); taken {
		return at, true
	}
	return overlap(p, u.routed)
}

func overlap(p netip.Prefix, with []netip.Prefix) (netip.Prefix, bool) {
	for _, w := range with {
		if w.Overlaps(p) {
			return w, true
		}
	}
	return netip.Prefix{}, false
}

// usedPrefixes reads the addresses and routes that are not our own, and what
// other installations have claimed.
func (n *Net) usedPrefixes() (used, error) {
	var u used
	links, err := again(netlink.LinkList)
	if err != nil {
		return u, err
	}
	ours := map[int]bool{}
	for _, l := range links {
		ours[l.Attrs().Index] = strings.HasPrefix(l.Attrs().Name, n.linkPrefix())
	}
	addrs, err := again(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return u, err
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && !ours[a.LinkIndex] {
			u.own = append(u.own, p)
		}
	}
	routes, err := again(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return u, err
	}
	tables, err := n.otherTables()
	if err != nil {
		return u, err
	}
	for _, t := range tables {
		es, err := n.wire.setElements(newRuleset(t, "").subnet)
		if err != nil {
			return u, err
		}
		u.own = append(u.own, prefixesIn(es)...)
	}
	for _, r := range routes {
		p, ok := prefixOf(r.Dst)
		if !ok || p.Bits() < widest || ours[r.LinkIndex] || r.Type == unix.RTN_UNREACHABLE && r.Protocol == routeOrigin {
			continue // other installations' routes were counted with their tables
		}
		u.routed = append(u.routed, p)
	}
	return u, nil
}

func prefixOf(p *net.IPNet) (netip.Prefix, bool) {
	if p == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(p.IP)
	ones, all := p.Mask.Size()
	if !ok || all == 0 {
		return netip.Prefix{}, false
	}
	if all == 128 {
		ones -= 96
	}
	if a = a.Unmap(); !a.Is4() || ones < 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, ones).Masked(), true
}

// prefixesIn turns a set's intervals back into prefixes.
func prefixesIn(es []nftables.SetElement) []netip.Prefix {
	var ps []netip.Prefix
	for _, e := range es {
		first := addrFrom(e.Key)
		if e.IntervalEnd || !first.Is4() {
			continue
		}
		size := uint64(1)<<32 - uint64(ipNumber(first))
		for _, end := range es {
			if past := addrFrom(end.Key); end.IntervalEnd && first.Less(past) {
				size = min(size, uint64(ipNumber(past)-ipNumber(first)))
			}
		}
		ps = append(ps, netip.PrefixFrom(first, 33-bits.Len64(size)).Masked())
	}
	return ps
}

// addrFrom reads an address out of a set's key; the zero Addr if it is none.
func addrFrom(key []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(key)
	return a
}

// recall reads the state file. No file is the zero value.
func (n *Net) recall() (remembered, error) {
	var r remembered
	b, err := os.ReadFile(n.stateFile())
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", n.stateFile(), err)
	}
	if r.Subnet.IsValid() && (!r.Subnet.Addr().Is4() || r.Subnet != r.Subnet.Masked() || r.Subnet.Bits() < widest || r.Subnet.Bits() > linkBits) {
		return r, fmt.Errorf("%s: %v cannot be a subnet", n.stateFile(), r.Subnet)
	}
	return r, nil
}

// remember replaces the state file as a whole.
func (n *Net) remember(r remembered) error {
	if err := os.MkdirAll(n.cfg.Dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(n.cfg.Dir, ".network-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), n.stateFile())
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(filepath.Dir(n.stateFile()))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
