package network

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// install replaces both tables by what they must be, in one transaction: every
// packet meets the whole old filter or the whole new one. What guests have in
// the tables is taken from their links, so it returns even if the tables were
// deleted. The caller holds the gate exclusively.
func (n *Net) install() error {
	r := newRuleset(n.tableName(), n.linkPrefix())
	digest, err := r.digest()
	if err != nil {
		return err
	}
	links, err := n.guestLinks()
	if err != nil {
		return err
	}
	return n.wire.batch(func(c *nftables.Conn) error {
		for _, t := range []*nftables.Table{r.inet, r.arp} {
			c.AddTable(t) // a table that is not there cannot be deleted
			c.DelTable(t)
			c.AddTable(t)
		}
		for _, s := range r.sets() {
			if err := c.AddSet(s, nil); err != nil {
				return fmt.Errorf("set %s: %w", s.Name, err)
			}
			if err := addElements(c, s, n.contents(r, s, links)); err != nil {
				return fmt.Errorf("set %s: %w", s.Name, err)
			}
		}
		for _, ch := range r.chains {
			c.AddChain(ch.Chain)
		}
		for _, ch := range r.chains {
			for i, rule := range ch.rules {
				c.AddRule(&nftables.Rule{Table: ch.Table, Chain: ch.Chain, Exprs: rule.words,
					UserData: userdata.AppendString(nil, userdata.TypeComment, comment(rule.note, digest, i))})
			}
		}
		return nil
	})
}

func comment(note, digest string, i int) string { return fmt.Sprintf("%s [%s.%d]", note, digest, i) }

// contents are the elements s must have, given the links that exist.
func (n *Net) contents(r *ruleset, s *nftables.Set, links map[int]bool) []nftables.SetElement {
	n.mu.Lock()
	dns, lent := n.dns, lentElements(n.lent)
	n.mu.Unlock()
	var es []nftables.SetElement
	switch s {
	case r.subnet:
		es = intervals([]netip.Prefix{n.sub})
	case r.allow:
		es = intervals(n.allow)
	case r.deny:
		es = intervals(append([]netip.Prefix{n.sub}, denied...))
	case r.lent:
		es = lent
	case r.dns:
		for i, a := range dnsAddrs {
			if len(dns) > 0 {
				es = append(es, nftables.SetElement{Key: a.AsSlice(), Val: endpointKey(dns[i%len(dns)])})
			}
		}
	case r.upstream:
		seen := map[netip.AddrPort]bool{}
		for _, a := range dns[:min(len(dns), len(dnsAddrs))] {
			if !seen[a] {
				seen[a] = true
				es = append(es, nftables.SetElement{Key: endpointKey(a)})
			}
		}
	case r.guests:
		for slot := range links {
			es = append(es, nftables.SetElement{Key: n.Plan(slot).guestKey()})
		}
	case r.arps:
		for slot := range links {
			es = append(es, nftables.SetElement{Key: n.Plan(slot).arpKey()})
		}
	case r.internet:
		for slot, internet := range links {
			if internet {
				es = append(es, nftables.SetElement{Key: ifname(n.Plan(slot).HostIf)})
			}
		}
	}
	return es
}

// addElements adds es in messages small enough for netlink.
func addElements(c *nftables.Conn, s *nftables.Set, es []nftables.SetElement) error {
	for part := range slices.Chunk(es, 256) {
		if err := c.SetAddElements(s, part); err != nil {
			return err
		}
	}
	return nil
}

// endpointKey is an address and a port as one key: each part fills whole words.
func endpointKey(a netip.AddrPort) []byte {
	return append(a.Addr().AsSlice(), byte(a.Port()>>8), byte(a.Port()), 0, 0)
}

// linkIn is the interface name at the beginning of a key.
func linkIn(key []byte) string {
	s, _, _ := bytes.Cut(key[:min(len(key), unix.IFNAMSIZ)], []byte{0})
	return string(s)
}

func (l Link) guestKey() []byte { return append(ifname(l.HostIf), l.Guest.AsSlice()...) }
func (l Link) arpKey() []byte   { return append(l.guestKey(), l.Gateway.AsSlice()...) }

// intact reports whether the tables are what install would make of them, and if
// not, what is wrong. What guests have left over is no reason: Found tells of
// it. The caller holds the gate exclusively.
func (n *Net) intact() (bool, string, error) {
	r := newRuleset(n.tableName(), n.linkPrefix())
	digest, err := r.digest()
	if err != nil {
		return false, "", err
	}
	links, err := n.guestLinks()
	if err != nil {
		return false, "", err
	}
	chains, err := n.wire.chains()
	if err != nil {
		return false, "", err
	}
	comments := map[nftables.TableFamily]map[string][]string{}
	for _, t := range []*nftables.Table{r.inet, r.arp} {
		if comments[t.Family], err = n.wire.comments(t); err != nil {
			return false, "", err
		}
	}
	for _, want := range r.chains {
		i := slices.IndexFunc(chains, func(is *nftables.Chain) bool {
			return is.Table.Name == want.Table.Name && is.Table.Family == want.Table.Family && is.Name == want.Name
		})
		if i < 0 {
			return false, "chain " + want.Name + " is missing", nil
		}
		if !sameHook(chains[i], want.Chain) {
			return false, "chain " + want.Name + " hangs elsewhere", nil
		}
		said := comments[want.Table.Family][want.Name]
		if len(said) != len(want.rules) {
			return false, "chain " + want.Name + " has other rules", nil
		}
		for j := range said {
			if said[j] != comment(want.rules[j].note, digest, j) {
				return false, "chain " + want.Name + " has other rules", nil
			}
		}
	}
	for _, s := range r.sets() {
		is, err := n.wire.setElements(s)
		if err != nil {
			return false, "", err
		}
		// A dump of intervals may begin with the end of "nothing" before them.
		is = slices.DeleteFunc(is, func(e nftables.SetElement) bool {
			return s.Interval && e.IntervalEnd && bytes.Equal(e.Key, []byte{0, 0, 0, 0})
		})
		want := n.contents(r, s, links)
		switch s {
		case r.flows: // the kernel's own
		case r.guests, r.internet, r.arps:
			if !holds(is, want) {
				return false, "set " + s.Name + " lacks a guest", nil
			}
		default:
			if !holds(is, want) || !holds(want, is) {
				return false, "set " + s.Name + " has other elements", nil
			}
		}
	}
	return true, "", nil
}

func sameHook(a, b *nftables.Chain) bool {
	if (a.Hooknum == nil) != (b.Hooknum == nil) {
		return false
	}
	return a.Hooknum == nil || *a.Hooknum == *b.Hooknum && *a.Priority == *b.Priority && a.Type == b.Type
}

// holds reports whether all has each of some.
func holds(all, some []nftables.SetElement) bool {
	type key struct {
		key, val string
		end      bool
	}
	has := map[key]bool{}
	for _, e := range all {
		has[key{string(e.Key), string(e.Val), e.IntervalEnd}] = true
	}
	for _, e := range some {
		if !has[key{string(e.Key), string(e.Val), e.IntervalEnd}] {
			return false
		}
	}
	return true
}

// gone reports whether err says that there is no such thing.
func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, os.ErrNotExist) }
