package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// A Link is where one guest is found.
type Link struct {
	Slot   int
	NetNS  string // the namespace, as a path for setns or an OCI spec
	HostIf string // the host's end of the link

	// Guest is the sandbox's address and Gateway the host's on the same link.
	// The host reaches the guest at Guest; nobody else does.
	Guest, Gateway netip.Addr

	// DNS are the name servers for the guest's resolv.conf; nil without
	// internet. They are the same for every guest of every installation, so a
	// guest restored in another slot need not be told.
	DNS []netip.Addr
}

// guestIf is the name of the namespace's end of the link.
const guestIf = "eth0"

// anyLink begins the name of a link of any installation's.
const anyLink = "hx"

// dnsAddrs are what guests know as their name servers. Nobody has these
// addresses: the host rewrites what is sent to port 53 of them. There are two,
// so that a guest's own resolver tries the second upstream when the first is
// silent; with one upstream both lead to it.
var dnsAddrs = []netip.Addr{
	netip.AddrFrom4([4]byte{169, 254, 53, 53}),
	netip.AddrFrom4([4]byte{169, 254, 53, 54}),
}

// linkBits is the prefix length of one link: network, gateway, guest, broadcast.
const linkBits = 30

func capacity(sub netip.Prefix) int { return 1 << (linkBits - sub.Bits()) }

// Plan returns the names and addresses of slot. It is a pure function of the
// slot, the tag and the subnet. DNS is set as for a guest with internet.
func (n *Net) Plan(slot int) Link {
	base := ipNumber(n.sub.Addr()) + uint32(slot)<<(32-linkBits)
	return Link{
		Slot:    slot,
		NetNS:   filepath.Join(n.dir, n.nsName(slot)),
		HostIf:  n.linkPrefix() + strconv.Itoa(slot),
		Gateway: ipFrom(base + 1),
		Guest:   ipFrom(base + 2),
		DNS:     append([]netip.Addr(nil), dnsAddrs...),
	}
}

func (n *Net) linkPrefix() string         { return anyLink + n.cfg.Tag + "-" }
func (n *Net) nsPrefix() string           { return "hutch-" + n.cfg.Tag + "-" }
func (n *Net) nsName(slot int) string     { return n.nsPrefix() + strconv.Itoa(slot) }
func (n *Net) tableName() string          { return tablePrefix + n.cfg.Tag }
func (n *Net) stateFile() string          { return filepath.Join(n.cfg.Dir, "network.json") }
func (l Link) hostMAC() net.HardwareAddr  { return macFor(1, l.Gateway) }
func (l Link) guestMAC() net.HardwareAddr { return macFor(2, l.Guest) }

// slotOf returns the slot in a name that begins with prefix. A name this
// package would not have made, such as one with a leading zero, is nobody's.
func slotOf(name, prefix string) (int, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	slot, err := strconv.Atoi(digits)
	if err != nil || slot < 0 || strconv.Itoa(slot) != digits {
		return 0, false
	}
	return slot, true
}

// slotAt returns the slot whose link has the address, if any has.
func (n *Net) slotAt(a netip.Addr) (int, bool) {
	if !a.Is4() || !n.sub.Contains(a) {
		return 0, false
	}
	return int((ipNumber(a) - ipNumber(n.sub.Addr())) >> (32 - linkBits)), true
}

// macFor makes a hardware address of an IP address. Given ones, unlike random
// ones, are left alone by systemd, and let both ends know each other without ARP.
func macFor(side byte, a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, side, b[0], b[1], b[2], b[3]}
}

func ipNumber(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func ipFrom(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// ipNet makes the type that netlink takes.
func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}
