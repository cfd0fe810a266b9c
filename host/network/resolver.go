package network

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// resolvConf is where the host's programs look. If it lists only a cache on the
// host itself, which no guest can reach, the others say whom the cache asks.
var (
	resolvConf = "/etc/resolv.conf"
	behindIt   = []string{
		"/run/systemd/resolve/resolv.conf",
		"/run/NetworkManager/no-stub-resolv.conf",
	}
)

// readResolvers decides whom guests' queries go to. It is no error to have
// nobody: guests then cannot resolve names, and the operator is told once.
func (n *Net) readResolvers() {
	dns := n.cfg.Resolvers
	if len(dns) == 0 {
		dns = hostResolvers()
	}
	if len(dns) == 0 {
		n.warnOnce("the host's resolv.conf names no IPv4 resolver that sandboxes could use; configure one, or names will not resolve in them")
	}
	n.mu.Lock()
	n.dns = slices.Clone(dns)
	n.mu.Unlock()
}

func hostResolvers() []netip.AddrPort {
	for _, file := range append([]string{resolvConf}, behindIt...) {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // not this system's way
		}
		if list := parseResolvers(b); len(list) > 0 {
			return list
		}
	}
	return nil
}

// parseResolvers returns the name servers of a resolv.conf that a guest's query
// can be sent to, in their order.
func parseResolvers(conf []byte) []netip.AddrPort {
	var list []netip.AddrPort
	for s := bufio.NewScanner(bytes.NewReader(conf)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			continue
		}
		if a = a.Unmap(); a.Is4() && !a.IsLoopback() && !a.IsUnspecified() {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	return list
}
