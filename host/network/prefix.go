package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// denied are the ranges no guest may reach: the host's neighbours, metadata
// services, and everything that is not a public unicast address.
var denied = prefixes(
	"0.0.0.0/8",       // this network
	"10.0.0.0/8",      // private
	"100.64.0.0/10",   // carrier-grade NAT, overlay networks, some clouds' metadata
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local, metadata
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // protocol assignments, some clouds' metadata
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays
	"192.168.0.0/16",  // private
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, and the broadcast address
)

func prefixes(list ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// A span is a range of addresses, both ends included.
type span struct{ first, last uint32 }

// spans turns prefixes into ranges in order that neither overlap nor touch: an
// nftables set of intervals refuses elements that overlap.
func spans(ps []netip.Prefix) []span {
	var all []span
	for _, p := range ps {
		first := ipNumber(p.Masked().Addr())
		all = append(all, span{first, first | uint32(1<<(32-p.Bits())-1)})
	}
	slices.SortFunc(all, func(a, b span) int {
		if a.first != b.first {
			return cmpUint(a.first, b.first)
		}
		return cmpUint(a.last, b.last)
	})
	var out []span
	for _, s := range all {
		if k := len(out) - 1; k >= 0 && uint64(s.first) <= uint64(out[k].last)+1 {
			out[k].last = max(out[k].last, s.last)
			continue
		}
		out = append(out, s)
	}
	return out
}

func cmpUint(a, b uint32) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// intervals are the elements of a set of intervals that holds exactly ps.
func intervals(ps []netip.Prefix) []nftables.SetElement {
	var es []nftables.SetElement
	for _, s := range spans(ps) {
		first := ipFrom(s.first).As4()
		es = append(es, nftables.SetElement{Key: first[:]})
		if end := s.last + 1; end != 0 { // a range up to the very last address has no end
			past := ipFrom(end).As4()
			es = append(es, nftables.SetElement{Key: past[:], IntervalEnd: true})
		}
	}
	return es
}
