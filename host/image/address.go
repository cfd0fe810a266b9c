package image

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch"
)

// special are the addresses no registry of the public internet is at: this
// machine, its neighbours, and ranges that lead to them by translation. See
// IANA's special-purpose registries.
var special = func() []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
		"203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16",
		"3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	} {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}()

// public reports whether a is an address of the public internet.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// publicDialer returns a dialer that connects to public addresses only. The
// check is made on the address that is about to be connected to, so neither a
// name that resolves elsewhere nor a redirect gets around it.
func publicDialer() *net.Dialer {
	return &net.Dialer{
		Timeout: 15 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err == nil && public(a.Addr()) {
				return nil
			}
			return &hutch.Error{Kind: hutch.Forbidden, Op: "image.Pull", Msg: "the registry, or where it leads, is at an address that is not public"}
		},
	}
}
