package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A link is a network namespace with one veth to this host: what a floor needs
// to be reached, and no more.
type link struct {
	path  string // of the namespace
	name  string // of the host's end
	guest netip.Addr
}

// newLink makes the n-th link of this run. Addresses come from the range set
// aside for benchmarks (RFC 2544). On error nothing is left.
func newLink(id string, n int, dir string) (*link, error) {
	base := netip.AddrFrom4([4]byte{198, 18, byte(n >> 6), byte(n << 2)}).As4()
	host, guest := base, base
	host[3]++
	guest[3] += 2
	l := &link{
		path:  filepath.Join(dir, "netns"),
		name:  fmt.Sprintf("hb%d-%d", os.Getpid()%100_000, n%10_000),
		guest: netip.AddrFrom4(guest),
	}
	if err := os.WriteFile(l.path, nil, 0o600); err != nil {
		return nil, err
	}
	if err := inNewNamespace(l.path, func(hostNS *os.File) error { return l.connect(hostNS, guest) }); err != nil {
		return nil, errors.Join(err, l.remove())
	}
	dev, err := netlink.LinkByName(l.name)
	if err == nil {
		err = errors.Join(disableIPv6(l.name), address(dev, host), netlink.LinkSetUp(dev))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("link of %s: %w", id, err), l.remove())
	}
	return l, nil
}

// inNewNamespace makes a network namespace that lives on at path, and runs do
// in it. The thread it takes is spent.
func inNewNamespace(path string, do func(host *os.File) error) error {
	errc := make(chan error, 1)
	go func() { errc <- spendThread(path, do) }()
	return <-errc
}

// spendThread leaves its thread in the new namespace, to end with its
// goroutine. The main thread cannot end: if that is where we are, it is held
// while another does it.
func spendThread(path string, do func(host *os.File) error) error {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		return inNewNamespace(path, do)
	}
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return do(host)
}

func (l *link) connect(hostNS *os.File, guest [4]byte) error {
	if err := disableIPv6("default"); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: l.name, PeerNamespace: netlink.NsFd(hostNS.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := errors.Join(address(veth, guest), netlink.LinkSetUp(veth), netlink.LinkSetUp(lo)); err != nil {
		return err
	}
	gateway := guest
	gateway[3]--
	return netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Index, Gw: net.IP(gateway[:])})
}

func address(dev netlink.Link, a [4]byte) error {
	return netlink.AddrAdd(dev, &netlink.Addr{IPNet: &net.IPNet{IP: net.IP(a[:]), Mask: net.CIDRMask(30, 32)}})
}

// disableIPv6 keeps router solicitations and their kin off the link.
func disableIPv6(dev string) error {
	path := "/proc/sys/net/ipv6/conf/" + dev + "/disable_ipv6"
	err := os.WriteFile(path, []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

// remove gives the link and its namespace back.
func (l *link) remove() error {
	var errs []error
	if dev, err := netlink.LinkByName(l.name); err == nil {
		errs = append(errs, netlink.LinkDel(dev))
	}
	errs = append(errs, ignore(ignore(unix.Unmount(l.path, unix.MNT_DETACH), unix.EINVAL), unix.ENOENT))
	return errors.Join(append(errs, ignore(os.Remove(l.path), os.ErrNotExist))...)
}
