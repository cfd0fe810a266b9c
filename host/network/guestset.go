package network

import "github.com/google/nftables"

// admit puts the link into the filter, in one transaction. Until then the
// filter drops every packet of it.
func (n *Net) admit(l Link, internet bool) error {
	r := newRuleset(n.tableName(), n.linkPrefix())
	return n.wire.batch(func(c *nftables.Conn) error {
		if err := c.SetAddElements(r.guests, element(l.guestKey())); err != nil {
			return err
		}
		if err := c.SetAddElements(r.arps, element(l.arpKey())); err != nil {
			return err
		}
		// Added in any case, since only what is there can be deleted, and a
		// crash may have left it there.
		if err := c.SetAddElements(r.internet, element(ifname(l.HostIf))); err != nil || internet {
			return err
		}
		return c.SetDeleteElements(r.internet, element(ifname(l.HostIf)))
	})
}

// expel takes the link out of the filter, which then drops every packet of it.
// It is fine if nothing of it is in there, or if the tables are gone.
func (n *Net) expel(l Link) error {
	r := newRuleset(n.tableName(), n.linkPrefix())
	err := n.wire.batch(func(c *nftables.Conn) error {
		for _, of := range []struct {
			set *nftables.Set
			key []byte
		}{{r.guests, l.guestKey()}, {r.arps, l.arpKey()}, {r.internet, ifname(l.HostIf)}} {
			// Only what is there can be deleted, and an error would undo the
			// whole transaction: so it is added first.
			if err := c.SetAddElements(of.set, element(of.key)); err != nil {
				return err
			}
			if err := c.SetDeleteElements(of.set, element(of.key)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !gone(err) {
		return err
	}
	// The kernel's count of connections cannot be added, and is there only if
	// the guest had any. Asking first spares a transaction that fails, which
	// would take the kernel 10 ms.
	there, err := n.wire.hasElement(r.flows, l.Guest.AsSlice())
	if err != nil || !there {
		return err
	}
	err = n.wire.batch(func(c *nftables.Conn) error {
		return c.SetDeleteElements(r.flows, element(l.Guest.AsSlice()))
	})
	if err != nil && !gone(err) {
		return err
	}
	return nil
}

func element(key []byte) []nftables.SetElement { return []nftables.SetElement{{Key: key}} }

// filtered returns the slots that the filter still knows.
func (n *Net) filtered() (map[int]bool, error) {
	r := newRuleset(n.tableName(), n.linkPrefix())
	found := map[int]bool{}
	for _, s := range []*nftables.Set{r.guests, r.arps, r.internet, r.flows} {
		es, err := n.wire.setElements(s)
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
			if ok {
				found[slot] = true
			}
		}
	}
	return found, nil
}
