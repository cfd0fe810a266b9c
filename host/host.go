// Package host owns the sandboxes of one machine. It obeys orders, one keeper
// goroutine per sandbox, and says what it saw as facts. It writes down what it
// is about to make before it makes it, so that after a crash it can join that
// journal with what the kernel shows: adopt what lives, clear away the rest.
//
// It decides nothing: no deadlines, no owners, no quotas. It knows gVisor only
// through package driver.
package host

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
	"github.com/hutch-sh/hutch/host/network"
)

// Network is what a host needs of its network: [network.Net] is it, and tests
// without root have one that makes nothing.
type Network interface {
	Reserve(id hutch.SandboxID) (slot int, err error)
	Adopt(id hutch.SandboxID, slot int) error
	Attach(ctx context.Context, slot int, internet bool) (network.Link, error)
	Detach(slot int) error
	Free(slot int)
	Plan(slot int) network.Link
	Found() ([]int, error)
}

// Images finds root images on this machine.
type Images interface {
	// Rootfs returns the path of the image's file.
	Rootfs(d hutch.Digest) (string, error)
}

// Config is what a Host works with.
type Config struct {
	ID      hutch.HostID
	Dir     string // the journal, scratch files and saved disks; one directory below it per sandbox
	Driver  driver.Driver
	Network Network
	Images  Images
	Guest   Guest
	Key     ed25519.PrivateKey // signs the handshake with agents
	Agent   string             // directory with the agent's program, shared read-only with every sandbox
	ExtraCA string             // PEM certificates sandboxes trust beside their own, or ""

	// News is told of every fact that no order asked for: a sandbox that ended
	// by itself. It is called from keepers and must not call back.
	News func(hutch.Fact)
	Log  *slog.Logger

	// Fault is called before each named step of a making or unmaking; an error
	// from it is that step's. Tests inject faults with it; nil elsewhere.
	Fault func(id hutch.SandboxID, step string) error
}

// A Host obeys orders on one machine.
type Host struct {
	cfg     Config
	journal journal
	work    sync.WaitGroup // keepers and clearing away
	ctx     context.Context
	stop    context.CancelFunc

	mu      sync.Mutex
	closed  bool
	keepers map[hutch.SandboxID]*keeper
	tombs   map[hutch.SandboxID]time.Time // gone sandboxes, which no late order may raise
}

// tombLife is how long a tombstone stands: much longer than any order may be
// under way.
const tombLife = time.Hour

// Open returns a host that has joined its journal with what is alive: living
// sandboxes are adopted before it returns, the rest is being cleared away.
// Inventory tells the result.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	if cfg.News == nil {
		cfg.News = func(hutch.Fact) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{cfg: cfg, keepers: map[hutch.SandboxID]*keeper{}, tombs: map[hutch.SandboxID]time.Time{}}
	h.ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if h.journal, err = openJournal(cfg.Dir); err != nil {
		return nil, &hutch.Error{Op: "host.Open", Msg: "journal cannot be opened", Err: err}
	}
	if err := h.recover(); err != nil {
		h.Close()
		return nil, &hutch.Error{Op: "host.Open", Msg: "sandboxes of an earlier run cannot be found", Err: err}
	}
	return h, nil
}

// Close stops obeying and waits for what is under way. Sandboxes live on.
func (h *Host) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop()
	h.work.Wait()
}

// Apply hands o to the sandbox's keeper and returns the fact that answers it.
// An order that was accepted is obeyed even if ctx ends before it is answered;
// a Gone order stops whatever else is being done to the sandbox at once.
func (h *Host) Apply(ctx context.Context, o hutch.Order) (hutch.Fact, error) {
	const op = "host.Apply"
	if !o.ID.Valid() {
		return hutch.Fact{}, &hutch.Error{Kind: hutch.Invalid, Op: op, Msg: "bad sandbox id"}
	}
	k, err := h.keeperFor(o)
	if err != nil {
		return hutch.Fact{}, err
	}
	if k == nil {
		return h.fact(o.ID, o.Gen, hutch.Gone), nil
	}
	if o.Want == hutch.Gone {
		k.gones.Add(1)
		defer k.gones.Add(-1)
		if o.Grace == 0 {
			k.kills.Add(1)
			defer k.kills.Add(-1)
		}
		k.interrupt()
	}
	a := ask{o, make(chan hutch.Fact, 1)}
	select {
	case k.in <- a:
	case <-k.done:
		return h.after(k, o)
	case <-ctx.Done():
		return hutch.Fact{}, fmt.Errorf("%s: order not accepted: %w", op, ctx.Err())
	}
	select {
	case f := <-a.out:
		return f, nil
	case <-k.done:
		select {
		case f := <-a.out:
			return f, nil
		default:
			return h.after(k, o)
		}
	case <-ctx.Done():
		return hutch.Fact{}, fmt.Errorf("%s: order not answered: %w", op, ctx.Err())
	}
}

// after answers an order whose keeper ended first: because the sandbox is gone,
// or because the host is closing.
func (h *Host) after(k *keeper, o hutch.Order) (hutch.Fact, error) {
	if k.is == hutch.Gone { // written before done was closed
		return h.fact(o.ID, o.Gen, hutch.Gone), nil
	}
	return hutch.Fact{}, closing()
}

func closing() error {
	return &hutch.Error{Kind: hutch.Unavailable, Op: "host.Apply", Msg: "the host is shutting down; try again"}
}

// keeperFor returns the keeper that must hear o, or nil if the sandbox is gone
// (or never was) and o cannot make it.
func (h *Host) keeperFor(o hutch.Order) (*keeper, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k := h.keepers[o.ID]; k != nil {
		return k, nil
	}
	if _, dead := h.tombs[o.ID]; dead {
		return nil, nil
	}
	if h.closed {
		return nil, closing()
	}
	if o.Want != hutch.Running || o.Spec == nil {
		if o.Want == hutch.Gone {
			h.tombs[o.ID] = time.Now()
		}
		return nil, nil
	}
	return h.keepLocked(record{ID: o.ID, Spec: *o.Spec, Slot: -1, Is: hutch.Creating}), nil
}

func (h *Host) keepLocked(r record) *keeper {
	k := newKeeper(h, r)
	h.keepers[r.ID] = k
	h.work.Go(k.run)
	return k
}

// bury forgets a keeper and raises the tombstone in the same moment.
func (h *Host) bury(id hutch.SandboxID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	delete(h.keepers, id)
	h.tombs[id] = now
	if len(h.tombs)%256 == 0 {
		for id, since := range h.tombs {
			if now.Sub(since) > tombLife {
				delete(h.tombs, id)
			}
		}
	}
}

// Inventory returns a fact for every sandbox the host holds, made or being made.
func (h *Host) Inventory(ctx context.Context) ([]hutch.Fact, error) {
	h.mu.Lock()
	keepers := make([]*keeper, 0, len(h.keepers))
	for _, k := range h.keepers {
		keepers = append(keepers, k)
	}
	h.mu.Unlock()
	var facts []hutch.Fact
	for _, k := range keepers {
		if f := k.seen.Load(); f != nil && f.Is != hutch.Gone {
			facts = append(facts, *f)
		}
	}
	return facts, ctx.Err()
}

func (h *Host) fact(id hutch.SandboxID, gen uint64, is hutch.State) hutch.Fact {
	return hutch.Fact{ID: id, Host: h.cfg.ID, Gen: gen, Is: is, At: time.Now()}
}

func (h *Host) fault(id hutch.SandboxID, step string) error {
	if h.cfg.Fault == nil {
		return nil
	}
	return h.cfg.Fault(id, step)
}
