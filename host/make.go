package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
	"github.com/hutch-sh/hutch/internal/handshake"
)

const (
	makeLimit    = 60 * time.Second // the making of a sandbox; a busy machine needs seconds
	freezeLimit  = 30 * time.Second // pause and resume
	exportLimit  = 10 * time.Minute // saving a disk: as long as writing its size takes
	destroyLimit = 30 * time.Second // one try to kill; more follow
)

// create makes a sandbox for the first time. If it fails nothing is left.
func (k *keeper) create(o hutch.Order) error {
	k.rec.TokenKey = o.TokenKey
	err := k.raise("")
	if err == nil {
		return nil
	}
	k.why = hutch.ByFailure
	return errors.Join(err, k.giveBack())
}

// restart makes a stopped sandbox again, on the disk it left. If it fails it is
// stopped as before.
func (k *keeper) restart(o hutch.Order) error {
	if err := k.tidy(); err != nil {
		return err
	}
	k.rec.TokenKey = o.TokenKey
	err := k.raise(k.host.journal.upper(k.rec.ID))
	if err == nil {
		return nil
	}
	return errors.Join(err, k.lower())
}

// raise is the whole making of a sandbox, top to bottom. Each step pushes its
// way back before the next begins; the caller runs them if there is an error.
func (k *keeper) raise(upper string) error {
	h := k.host
	ctx, done := k.doing(makeLimit, &k.gones)
	defer done()

	err := k.step("slot", func() error {
		slot, err := h.cfg.Network.Reserve(k.rec.ID)
		if err != nil {
			return err
		}
		k.back("network", func() error { return h.cfg.Network.Detach(slot) })
		k.rec.Slot, k.rec.Want = slot, hutch.Running
		if k.rec.Boot, err = bootID(); err != nil {
			return err
		}
		k.kept = true
		return h.journal.write(k.rec, upper != "") // a saved disk hangs on its record
	})
	if err != nil {
		return err
	}
	var rootfs string
	err = k.step("rootfs", func() (err error) {
		rootfs, err = h.cfg.Images.Rootfs(k.rec.Spec.Image)
		return err
	})
	if err != nil {
		return err
	}
	err = k.step("network", func() (err error) {
		k.link, err = h.cfg.Network.Attach(ctx, k.rec.Slot, k.rec.Spec.Internet)
		return err
	})
	if err != nil {
		return err
	}
	if err := k.step("start", func() error { return k.boot(ctx, rootfs, upper) }); err != nil {
		return err
	}
	if err := k.step("handshake", func() error { return k.greet(ctx) }); err != nil {
		return err
	}
	k.is, k.rec.Is = hutch.Running, hutch.Running
	return h.journal.write(k.rec, false)
}

// boot starts the cell and begins to watch it.
func (k *keeper) boot(ctx context.Context, rootfs, upper string) error {
	h := k.host
	c, err := h.cfg.Driver.Create(ctx, driver.Bundle{
		ID:        k.rec.ID,
		Hostname:  string(k.rec.ID),
		Rootfs:    rootfs,
		Upper:     upper,
		Scratch:   h.journal.scratch(k.rec.ID),
		Agent:     h.cfg.Agent,
		Args:      h.agentArgs(),
		Ready:     handshake.ReadyLine,
		NetNS:     k.link.NetNS,
		Resources: k.rec.Spec.Resources,
	})
	var left *driver.LeftError
	if errors.As(err, &left) {
		k.back("cell", destroying(left.Cell))
	}
	if err != nil {
		return err
	}
	k.back("cell", destroying(c))
	k.observe(c)
	return nil
}

func destroying(c driver.Cell) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), destroyLimit)
		defer cancel()
		return c.Destroy(ctx)
	}
}

// greet makes the agent this sandbox's own. Users are refused until then. A
// sandbox that ends meanwhile does not keep us waiting.
func (k *keeper) greet(ctx context.Context) error {
	s := k.rec.Spec
	id := handshake.Identity{
		SandboxID: string(k.rec.ID),
		TokenKey:  k.rec.TokenKey,
		Hostname:  string(k.rec.ID),
		Env:       s.Env,
		Base:      s.Base,
		Workdir:   s.Workdir,
		ExtraCA:   k.host.cfg.ExtraCA,
		UnixNano:  time.Now().UnixNano(),
		VCPU:      s.Resources.VCPU,
		MemoryMB:  s.Resources.MemoryMB,
		DiskMB:    s.Resources.DiskMB,
		Seed:      make([]byte, 32),
	}
	rand.Read(id.Seed) // never fails, since Go 1.24
	for _, a := range k.link.DNS {
		id.DNS = append(id.DNS, a.String())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	k.host.work.Go(func() { result <- k.host.cfg.Guest.Greet(ctx, k.link.Guest, id) })
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		return nil
	case x := <-k.died:
		k.died <- x // still news, for whoever looks next
		return errors.New("the sandbox ended while it started")
	}
}

// pause makes the sandbox stand still, memory and processes kept.
func (k *keeper) pause() error {
	p, ok := k.cell.(driver.Pauser)
	if !ok {
		return errors.New("this host cannot pause sandboxes")
	}
	ctx, done := k.doing(freezeLimit, &k.gones)
	defer done()
	if err := k.step("pause", func() error { return p.Pause(ctx) }); err != nil {
		return err
	}
	return k.become(hutch.Paused)
}

// resume lets a paused sandbox go on.
func (k *keeper) resume() error {
	p, ok := k.cell.(driver.Pauser)
	if !ok {
		return errors.New("this host cannot resume sandboxes")
	}
	ctx, done := k.doing(freezeLimit, &k.gones)
	defer done()
	if err := k.step("resume", func() error { return p.Resume(ctx) }); err != nil {
		return err
	}
	return k.become(hutch.Running)
}

// halt ends the sandbox's processes and keeps its disk. If the disk cannot be
// saved the sandbox runs on.
func (k *keeper) halt(o hutch.Order) error {
	e, ok := k.cell.(driver.Exporter)
	if !ok {
		return errors.New("this host cannot keep a disk")
	}
	if k.is == hutch.Paused {
		if err := k.resume(); err != nil {
			return err
		}
	}
	k.askToEnd(o.Grace)
	ctx, done := k.doing(exportLimit, &k.gones)
	err := k.step("save", func() error { return e.Export(ctx, k.host.journal.upper(k.rec.ID)) })
	done()
	if err != nil {
		return err
	}
	return k.lower()
}

// lower makes the sandbox stopped: its disk is safe and that is written down,
// then all but the disk is given back. What cannot be done yet is tried again
// until it is, and before the next start.
func (k *keeper) lower() error {
	k.unwatch()
	k.cell = nil
	k.is, k.rec.Is, k.rec.Want = hutch.Stopped, hutch.Stopped, hutch.Stopped
	return k.tidy()
}

// tidy gives back what a stopped sandbox should no longer hold. Its slot may be
// another's only when its record does not name it any more.
func (k *keeper) tidy() error {
	err := k.host.journal.write(k.rec, true)
	if err == nil {
		err = k.held.Run()
	}
	if slot := k.rec.Slot; err == nil && slot >= 0 {
		k.rec.Slot = -1
		if err = k.host.journal.write(k.rec, true); err != nil {
			k.rec.Slot = slot
		} else {
			k.host.cfg.Network.Free(slot)
		}
	}
	if err != nil {
		k.again.next()
		k.host.cfg.Log.Error("stopped sandbox not tidied yet", "sandbox", k.rec.ID, "err", err)
		return err
	}
	k.again = backoff{}
	return nil
}

func (k *keeper) become(s hutch.State) error {
	k.is, k.rec.Is, k.rec.Want = s, s, s
	return k.host.journal.write(k.rec, false)
}

// askToEnd lets the user's processes end by themselves. An agent that does not
// answer in time is no obstacle: the end comes anyway.
func (k *keeper) askToEnd(grace time.Duration) {
	ctx, done := k.doing(grace+time.Second, &k.kills)
	defer done()
	s := handshake.Shutdown{SandboxID: string(k.rec.ID), GraceMS: int(grace.Milliseconds())}
	if err := k.host.cfg.Guest.Shutdown(ctx, k.link.Guest, s); err != nil {
		k.host.cfg.Log.Info("sandbox not asked to end", "sandbox", k.rec.ID, "err", err)
	}
}
