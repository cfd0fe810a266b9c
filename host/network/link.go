package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Words of a link's alias, which `ip link` shows. It says what the guest may,
// for a filter that has to be made anew, and lives exactly as long as the link.
const (
	aliasOnline  = "hutch: internet"
	aliasOffline = "hutch: no internet"
)

// makeGuestSide makes the namespace and the link, and gives the guest's end its
// address. It runs on a thread of its own. The handle it makes stays in the
// namespace whatever thread uses it, and is the caller's to close if not nil.
func (n *Net) makeGuestSide(l Link, mtu int) (*netlink.Handle, error) {
	if err := n.step("namespace"); err != nil {
		return nil, err
	}
	if err := newNamespace(l.NetNS); err != nil {
		return nil, err
	}
	if err := n.step("link"); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = guestIf, mtu, l.guestMAC()
	veth := &netlink.Veth{
		LinkAttrs: attrs,
		PeerName:  l.HostIf, PeerHardwareAddr: l.hostMAC(), PeerMTU: uint32(mtu),
		PeerNamespace: netlink.NsFd(n.host.Fd()),
	}
	if err := h.LinkAdd(veth); err != nil {
		return h, fmt.Errorf("add link %s: %w", l.HostIf, err)
	}
	if err := n.step("guest"); err != nil {
		return h, err
	}
	return h, addressGuest(h, l)
}

// addressGuest gives the guest's end its address, its gateway and the route to
// everywhere, whatever of it is there already.
func addressGuest(h *netlink.Handle, l Link) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	eth, err := h.LinkByName(guestIf)
	if err != nil {
		return fmt.Errorf("look up %s: %w", guestIf, err)
	}
	if err := h.AddrReplace(eth, &netlink.Addr{IPNet: ipNet(l.Guest, linkBits)}); err != nil {
		return fmt.Errorf("add address: %w", err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("bring up %s: %w", guestIf, err)
	}
	if err := h.NeighSet(neighbor(eth, l.Gateway.AsSlice(), l.hostMAC())); err != nil {
		return fmt.Errorf("add neighbor: %w", err)
	}
	if err := h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: l.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add route: %w", err)
	}
	return nil
}

// neighbor is an entry that ARP can neither make nor change. gVisor takes it over.
func neighbor(link netlink.Link, ip net.IP, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac,
	}
}

// makeHostSide prepares the host's end, puts the filter in, and only then lets
// the link carry packets. inside is a handle of the guest's namespace.
func (n *Net) makeHostSide(l Link, internet bool, inside *netlink.Handle) error {
	if err := n.step("host"); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(l.HostIf)
	if err != nil {
		return fmt.Errorf("look up %s: %w", l.HostIf, err)
	}
	alias, forward := aliasOffline, "0"
	if internet {
		alias, forward = aliasOnline, "1"
	}
	if err := h.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("name the purpose of %s: %w", l.HostIf, err)
	}
	if err := n.step("settings"); err != nil {
		return err
	}
	if err := harden(l.HostIf, forward); err != nil {
		return err
	}
	if err := n.step("guard"); err != nil {
		return err
	}
	if err := n.guard(h, link.Attrs().Index); err != nil {
		return err
	}
	if err := n.step("admit"); err != nil {
		return err
	}
	if err := n.admit(l, internet); err != nil {
		return err
	}
	if err := n.step("address"); err != nil {
		return err
	}
	if err := h.AddrReplace(link, &netlink.Addr{IPNet: ipNet(l.Gateway, linkBits)}); err != nil {
		return fmt.Errorf("add address: %w", err)
	}
	if err := h.NeighSet(neighbor(link, l.Guest.AsSlice(), l.guestMAC())); err != nil {
		return fmt.Errorf("add neighbor: %w", err)
	}
	if err := n.step("up"); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", l.HostIf, err)
	}
	// Both ends drop what is sent until the kernel has got round to noticing
	// that the other is there. Asking about an end makes it notice (since
	// Linux 6.8; before, it takes a millisecond or so).
	if _, err := h.LinkByName(l.HostIf); err != nil {
		return fmt.Errorf("look at %s: %w", l.HostIf, err)
	}
	if _, err := inside.LinkByName(guestIf); err != nil {
		return fmt.Errorf("look at %s: %w", guestIf, err)
	}
	return nil
}

// harden sets what the host believes and answers on a link. All of it works
// without the filter too. Every value is written although most are defaults,
// because the host's "default" may have been changed.
func harden(iface, forward string) error {
	for _, s := range []struct{ family, name, value string }{
		{"ipv6", "disable_ipv6", "1"},        // link-local addresses would walk around every IPv4 rule
		{"ipv4", "forwarding", forward},      // without internet, the kernel routes nothing from here
		{"ipv4", "rp_filter", "1"},           // only sources this link leads to
		{"ipv4", "arp_ignore", "1"},          // only the gateway's address is here, no other of the host's
		{"ipv4", "proxy_arp", "0"},           // nor does the host answer for others
		{"ipv4", "route_localnet", "0"},      // 127.0.0.0/8 stays inside
		{"ipv4", "accept_source_route", "0"}, // the guest does not choose ways
		{"ipv4", "accept_redirects", "0"},    // nor tells the host any
		{"ipv4", "send_redirects", "0"},
	} {
		err := writeSysctl(s.family, iface, s.name, s.value)
		if s.family == "ipv6" && errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// links returns the slots that have a link on the host, and whether its guest
// has internet.
func (n *Net) links() (map[int]bool, error) {
	all, err := again(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	found := map[int]bool{}
	for _, l := range all {
		a := l.Attrs()
		if slot, ok := slotOf(a.Name, n.linkPrefix()); ok && l.Type() == "veth" {
			found[slot] = a.Alias == aliasOnline
		}
	}
	return found, nil
}

// guestLinks returns the links that have an address, and so may have a guest.
func (n *Net) guestLinks() (map[int]bool, error) {
	found, err := n.links()
	maps.DeleteFunc(found, func(slot int, _ bool) bool { return slot >= n.cap })
	return found, err
}

func isNoLink(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none)
}

// again runs a dump until nothing changed while it ran.
func again[T any](dump func() (T, error)) (T, error) {
	for range 100 {
		v, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return v, err
		}
	}
	var none T
	return none, netlink.ErrDumpInterrupted
}
