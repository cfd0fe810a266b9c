package network

import (
	"fmt"

	"github.com/google/nftables"
)

// admit puts the link into the filter, in one transaction. Until then the
// filter drops every packet of it.
func (n *Net) admit(l Link, internet bool) error {
	r := newRuleset(n.tableName(), n.linkPrefix())
	c, err := nftables.New()
	if err != nil {
		return err
	}
	add := func(s *nftables.Set, key []byte) error {
		return c.SetAddElements(s, []nftables.SetElement{{Key: key}})
	}
	if err := add(r.guests, l.guestKey()); err != nil {
		return err
	}
	if err := add(r.arps, l.arpKey()); err != nil {
		return err
	}
	// Added in any case, since only what is there can be deleted, and a crash
	// may have left it there.
	if err := add(r.internet, ifname(l.HostIf)); err != nil {
		return err
	}
	if !internet {
		if err := c.SetDeleteElements(r.internet, []nftables.SetElement{{Key: ifname(l.HostIf)}}); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// expel takes the link out of the filter, which then drops every packet of it.
// It is fine if nothing of it is in there, or if the tables are gone.
func (n *Net) expel(l Link) error {
	r := newRuleset(n.tableName(), n.linkPrefix())
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, of := range []struct {
		set *nftables.Set
		key []byte
	}{{r.guests, l.guestKey()}, {r.arps, l.arpKey()}, {r.internet, ifname(l.HostIf)}} {
		// Only what is there can be deleted, and an error would undo the whole
		// transaction: so it is added first.
		e := []nftables.SetElement{{Key: of.key}}
		if err := c.SetAddElements(of.set, e); err != nil {
			return err
		}
		if err := c.SetDeleteElements(of.set, e); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil && !gone(err) {
		return fmt.Errorf("nftables: %w", err)
	}
	// The kernel's count of connections cannot be added, and is there only if
	// the guest had any.
	if err := c.SetDeleteElements(r.flows, []nftables.SetElement{{Key: l.Guest.AsSlice()}}); err != nil {
		return err
	}
	if err := c.Flush(); err != nil && !gone(err) {
		return fmt.Errorf("nftables: count of connections: %w", err)
	}
	return nil
}

// filtered returns the slots that the filter still knows.
func (n *Net) filtered() (map[int]bool, error) {
	r := newRuleset(n.tableName(), n.linkPrefix())
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	found := map[int]bool{}
	for _, s := range []*nftables.Set{r.guests, r.arps, r.internet, r.flows} {
		es, err := setElements(c, s)
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			slot, ok := 0, false
			if s == r.flows {
				slot, ok = n.slotAt(addrFrom(e.Key))
			} else {
				slot, ok = slotOf(linkIn(e.Key), n.linkPrefix())
			}
			if ok && slot < n.cap {
				found[slot] = true
			}
		}
	}
	return found, nil
}
