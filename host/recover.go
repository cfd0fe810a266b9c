package host

import (
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"slices"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
)

// recover joins the journal with what the kernel shows. Sandboxes that live are
// adopted; everything else, known or not, is being given back when it returns.
func (h *Host) recover() error {
	records, broken, strange, err := h.journal.read()
	if err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	cells, err := h.cfg.Driver.List()
	if err != nil {
		return err
	}
	slots, err := h.cfg.Network.Found()
	if err != nil {
		return err
	}
	known, inUse := map[hutch.SandboxID]bool{}, map[int]bool{}
	h.mu.Lock()
	defer h.mu.Unlock()
	// Those that should live first: a slot that two records name is theirs.
	slices.SortStableFunc(records, func(a, b record) int { return cmp.Compare(ending(a), ending(b)) })
	for _, r := range records {
		known[r.ID] = true
		if r.Slot >= 0 {
			if err := h.cfg.Network.Adopt(r.ID, r.Slot); err != nil {
				h.cfg.Log.Error("network not adopted; the sandbox ends", "sandbox", r.ID, "slot", r.Slot, "err", err)
				r.Slot, r.Want = -1, hutch.Gone
			} else {
				inUse[r.Slot] = true
			}
		}
		h.adoptLocked(r, boot)
	}
	for _, id := range append(cells, broken...) {
		if !known[id] {
			// A keeper, so that a kill of it waits for its end.
			known[id] = true
			h.adoptLocked(record{ID: id, Slot: -1, Want: hutch.Gone, Is: hutch.Failed, Why: hutch.ByOrphan}, boot)
		}
	}
	for _, path := range strange {
		h.clear("directory that is no sandbox's", func() error { return os.RemoveAll(path) })
	}
	for _, slot := range slots {
		if inUse[slot] {
			continue
		}
		// Held until it is clear. One beyond what there is room for now cannot
		// be handed out anyway.
		if err := h.cfg.Network.Adopt(hutch.SandboxID(fmt.Sprintf("slot %d", slot)), slot); err != nil && hutch.KindOf(err) != hutch.Invalid {
			return err
		}
		h.clear("network that no record names", func() error {
			if err := h.cfg.Network.Detach(slot); err != nil {
				return err
			}
			h.cfg.Network.Free(slot)
			return nil
		})
	}
	return nil
}

// ending sorts records of sandboxes that should be gone behind the others.
func ending(r record) int {
	if r.Want == hutch.Gone {
		return 1
	}
	return 0
}

// adoptLocked makes a keeper for a record of an earlier run. What is not alive
// as it should be is given back by its keeper at once.
func (h *Host) adoptLocked(r record, boot string) {
	k := newKeeper(h, r)
	k.why, k.kept = r.Why, true
	if r.Slot >= 0 {
		slot := r.Slot
		k.link = h.cfg.Network.Plan(slot)
		k.back("network", func() error { return h.cfg.Network.Detach(slot) })
	}
	c, err := h.cfg.Driver.Recover(r.ID)
	switch {
	case err == nil:
		k.back("cell", destroying(c))
		k.observe(c) // a dead one is news at once
	case hutch.KindOf(err) != hutch.NotFound:
		h.cfg.Log.Error("cell not recovered", "sandbox", r.ID, "err", err)
		id := r.ID
		k.back("cell", func() error { return h.destroyCell(id) })
	}
	alive := err == nil && r.Boot == boot && (r.Is == hutch.Running || r.Is == hutch.Paused)
	switch {
	case r.Want == hutch.Gone, r.Is == hutch.Creating:
		// A kill or a making that was cut off.
		k.is = hutch.Failed
		k.again.now()
		if k.why == "" {
			k.why = hutch.ByFailure
		}
	case r.Is == hutch.Stopped:
		// What is left of its running self, if anything, is given back; a
		// stop that was cut off before its record is a crash of a running one.
		if err := k.lower(); err != nil {
			h.cfg.Log.Error("stopped sandbox not tidied yet", "sandbox", r.ID, "err", err)
		}
	case !alive:
		k.is = hutch.Failed
		k.again.now()
		k.why = hutch.ByCrash
		if r.Boot != boot {
			k.why = hutch.ByHostLoss
		}
	}
	k.publish(nil)
	h.keepers[r.ID] = k
	h.work.Go(k.run)
}

// clear gives something back in the background, trying until it is done.
func (h *Host) clear(what string, f func() error) {
	h.work.Go(func() {
		var b backoff
		for {
			err := f()
			if err == nil {
				return
			}
			h.cfg.Log.Error("not cleared away yet", "what", what, "err", err)
			b.next()
			select {
			case <-b.due():
			case <-h.ctx.Done():
				return
			}
		}
	})
}

// destroyCell removes whatever is left of a cell that nobody keeps.
func (h *Host) destroyCell(id hutch.SandboxID) error {
	c, err := h.cfg.Driver.Recover(id)
	switch {
	case err == nil:
		return destroying(c)()
	case hutch.KindOf(err) == hutch.NotFound:
		return nil
	}
	return fmt.Errorf("%s: %w", id, err)
}

// agentArgs is the first process of every sandbox: the agent's init, which
// knows one thing, whom to believe.
func (h *Host) agentArgs() []string {
	pub := h.cfg.Key.Public().(ed25519.PublicKey)
	return []string{driver.AgentMount + "/hutch-agent", "init", "--host-key", base64.RawURLEncoding.EncodeToString(pub)}
}
