package network

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/hutch-sh/hutch"
)

// Found returns, in order, the slots of which anything is in the kernel: a
// namespace's name, a link, an element of the filter. Whoever knows which slots
// are in use detaches the others. A number beyond the capacity is left from a
// larger subnet.
func (n *Net) Found() ([]int, error) {
	found, err := n.found()
	if err != nil {
		return nil, fail("network.Found", hutch.Internal, "the networks of sandboxes cannot be listed", err)
	}
	return found, nil
}

func (n *Net) found() ([]int, error) {
	links, err := n.links()
	if err != nil {
		return nil, err
	}
	all, err := n.filtered()
	if err != nil {
		return nil, err
	}
	for slot := range links {
		all[slot] = true
	}
	files, err := os.ReadDir(n.dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if slot, ok := slotOf(f.Name(), n.nsPrefix()); ok {
			all[slot] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// Purge removes everything of this installation, guests' links included, and
// puts back the settings it changed. The Net can then only be closed. After an
// error, asking again does what is left.
func (n *Net) Purge() error {
	const op = "network.Purge"
	unlock, err := n.lockHost()
	if err != nil {
		return fail(op, hutch.Internal, "the directory of named network namespaces cannot be locked", err)
	}
	defer unlock()
	n.gate.Lock()
	defer n.gate.Unlock()
	if err := n.purge(); err != nil {
		return fail(op, hutch.Internal, "the network could not be removed completely", err)
	}
	return nil
}

// errPurged keeps a late Attach or Refresh from bringing the filter back.
var errPurged = errors.New("the network was purged")

func (n *Net) purged() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.over
}

func (n *Net) purge() error {
	n.mu.Lock()
	n.over = true
	n.mu.Unlock()
	slots, err := n.found()
	if err != nil {
		return err
	}
	var errs []error
	for _, slot := range slots {
		errs = append(errs, n.remove(n.Plan(slot)))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the filter stays as long as there is a link
	}
	n.deferred.Wait()
	if err := n.takeBack(); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	if err := n.dropTables(); err != nil {
		return err
	}
	if err := dropRoute(n.sub); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	if err := os.Remove(n.stateFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// dropTables deletes both tables, whichever of them is there.
func (n *Net) dropTables() error {
	r := newRuleset(n.tableName(), n.linkPrefix())
	return n.wire.batch(func(c *nftables.Conn) error {
		for _, t := range []*nftables.Table{r.inet, r.arp} {
			c.AddTable(t) // a table that is not there cannot be deleted
			c.DelTable(t)
		}
		return nil
	})
}
