package network

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// uplinks are the interfaces that lead to the internet, a resolver or an
// allowed network.
type uplinks struct {
	index map[int]string
	mtu   int // of the interface of the best default route; bytes
}

// Bounds of what a link's MTU is taken for.
const (
	defaultMTU = 1500
	leastMTU   = 576 // what every IPv4 host must take
)

// findUplinks looks up where packets leave the host and lets what comes back on
// those interfaces be forwarded. The caller holds the host's lock.
func (n *Net) findUplinks() error {
	routes, err := again(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	// The way out today comes first: a VPN may lead elsewhere than the main
	// table's default route.
	indices := towards(somewhere)
	for _, r := range routes {
		if r.Type != unix.RTN_UNICAST || r.Dst != nil && !isDefault(r) {
			continue
		}
		for _, hop := range r.MultiPath {
			indices = append(indices, hop.LinkIndex)
		}
		if len(r.MultiPath) == 0 {
			indices = append(indices, r.LinkIndex)
		}
	}
	n.mu.Lock()
	wanted := slices.Clone(n.dns)
	n.mu.Unlock()
	var addrs []netip.Addr
	for _, a := range wanted {
		addrs = append(addrs, a.Addr())
	}
	for _, p := range n.allow {
		addrs = append(addrs, p.Addr())
	}
	for _, a := range addrs {
		indices = append(indices, towards(a)...)
	}
	up := uplinks{index: map[int]string{}, mtu: defaultMTU}
	for i, index := range indices {
		link, err := netlink.LinkByIndex(index)
		if isNoLink(err) {
			continue // gone since
		}
		if err != nil {
			return fmt.Errorf("look up interface %d: %w", index, err)
		}
		a := link.Attrs()
		if a.Name == "lo" || strings.HasPrefix(a.Name, n.linkPrefix()) {
			continue
		}
		up.index[index] = a.Name
		if i == 0 {
			up.mtu = max(a.MTU, leastMTU)
		}
	}
	n.mu.Lock()
	n.up = up
	n.mu.Unlock()
	return n.forwardFrom(slices.Sorted(maps.Values(up.index)))
}

// somewhere is an address of the internet, to ask for the way to. Nothing is
// ever sent there.
var somewhere = netip.AddrFrom4([4]byte{1, 1, 1, 1})

// towards returns the interfaces by which the host would reach an address today;
// none if it could not.
func towards(a netip.Addr) (indices []int) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil {
		return nil // no way there; Refresh asks again
	}
	for _, r := range routes {
		if r.Type == unix.RTN_UNICAST {
			indices = append(indices, r.LinkIndex)
		}
	}
	return indices
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// forwardFrom turns on forwarding of what the interfaces receive. One that had
// it off is lent: the filter then keeps it from routing for anybody else, and
// Purge turns it off again.
func (n *Net) forwardFrom(names []string) error {
	others, err := n.othersLent()
	if err != nil {
		return err
	}
	everywhere, err := forwardsEverywhere()
	if err != nil {
		return err
	}
	n.mu.Lock()
	lent := maps.Clone(n.lent)
	n.mu.Unlock()
	if everywhere {
		// Somebody has since made a router of this host. What an interface
		// routes is theirs to decide now, and not ours to turn off.
		clear(lent)
	}
	var off []string
	for _, name := range names {
		v, err := readSysctl("ipv4", name, "forwarding")
		if errors.Is(err, os.ErrNotExist) {
			continue // gone since
		}
		if err != nil {
			return err
		}
		if v == "0" {
			off = append(off, name)
			lent[name] = true
		} else if others[name] && !everywhere {
			lent[name] = true // the last to leave turns it off
		}
	}
	if err := n.setLent(lent); err != nil { // before it routes
		return err
	}
	for _, name := range off {
		if err := writeSysctl("ipv4", name, "forwarding", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// setLent changes which interfaces are lent, in the filter first.
func (n *Net) setLent(lent map[string]bool) error {
	n.mu.Lock()
	same := maps.Equal(lent, n.lent)
	n.mu.Unlock()
	if same {
		return nil
	}
	r := newRuleset(n.tableName(), n.linkPrefix())
	err := n.wire.batch(func(c *nftables.Conn) error {
		c.FlushSet(r.lent)
		return addElements(c, r.lent, lentElements(lent))
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.lent = lent
	n.mu.Unlock()
	return nil
}

// recallLent reads from the kernel what an earlier process turned on. It is kept
// there because, like the setting itself, it must not outlive a reboot.
func (n *Net) recallLent() error {
	lent, err := n.lentBy(n.tableName())
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.Copy(n.lent, lent)
	return nil
}

// othersLent returns what other installations on this host turned on.
func (n *Net) othersLent() (map[string]bool, error) {
	tables, err := n.otherTables()
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, t := range tables {
		lent, err := n.lentBy(t)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, lent)
	}
	return all, nil
}

func (n *Net) lentBy(table string) (map[string]bool, error) {
	es, err := n.wire.setElements(newRuleset(table, "").lent)
	if err != nil {
		return nil, err
	}
	lent := map[string]bool{}
	for _, e := range es {
		lent[linkIn(e.Key)] = true
	}
	return lent, nil
}

func lentElements(lent map[string]bool) (es []nftables.SetElement) {
	for _, name := range slices.Sorted(maps.Keys(lent)) {
		es = append(es, nftables.SetElement{Key: ifname(name)})
	}
	return es
}

// otherTables names the tables of other installations.
func (n *Net) otherTables() ([]string, error) {
	tables, err := n.wire.tables()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range tables {
		if strings.HasPrefix(t.Name, tablePrefix) && t.Name != n.tableName() {
			names = append(names, t.Name)
		}
	}
	return names, nil
}

// takeBack turns off the forwarding that no installation needs any more.
func (n *Net) takeBack() error {
	others, err := n.othersLent()
	if err != nil {
		return err
	}
	everywhere, err := forwardsEverywhere()
	if err != nil {
		return err
	}
	n.mu.Lock()
	lent := slices.Sorted(maps.Keys(n.lent))
	n.mu.Unlock()
	for _, name := range lent {
		if others[name] || everywhere {
			continue
		}
		if err := writeSysctl("ipv4", name, "forwarding", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	n.mu.Lock()
	clear(n.lent)
	n.mu.Unlock()
	return nil
}

func forwardsEverywhere() (bool, error) {
	v, err := readSysctl("ipv4", "all", "forwarding")
	return v == "1", err
}

// warnOfForeignDrop tells the operator of another firewall that keeps guests
// from the internet. That is no error: it may be meant.
func (n *Net) warnOfForeignDrop() {
	chains, err := n.wire.chains()
	if err != nil {
		n.log.Warn("other firewalls cannot be looked at", "err", err)
		return
	}
	for _, ch := range chains {
		v4 := ch.Table.Family == nftables.TableFamilyIPv4 || ch.Table.Family == nftables.TableFamilyINet
		if v4 && ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			n.warnOnce("another firewall drops what it does not know when it is forwarded; sandboxes may have no internet until it accepts their links",
				"table", ch.Table.Name, "chain", ch.Name, "links", n.linkPrefix()+"*")
		}
	}
}

// warnOnce logs a warning the first time it has this text.
func (n *Net) warnOnce(msg string, args ...any) {
	key := msg + fmt.Sprint(args...)
	n.mu.Lock()
	said := n.told[key]
	n.told[key] = true
	n.mu.Unlock()
	if !said {
		n.log.Warn(msg, args...)
	}
}
