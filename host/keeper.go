package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
	"github.com/hutch-sh/hutch/host/network"
	"github.com/hutch-sh/hutch/internal/undo"
)

// A keeper owns one sandbox: its goroutine is the only one that changes it.
type keeper struct {
	host *Host
	in   chan ask
	done chan struct{}              // closed when the keeper has ended
	seen atomic.Pointer[hutch.Fact] // the newest fact, for Inventory

	gones atomic.Int32 // Gone orders that wait to be obeyed
	kills atomic.Int32 // those of them without grace

	mu     sync.Mutex
	cancel context.CancelFunc // stops what is being done now; nil: nothing is

	// Below: only the keeper's goroutine, and readers after done.
	rec   record
	kept  bool // rec is in the journal
	is    hutch.State
	why   hutch.Reason
	cell  driver.Cell
	link  network.Link
	died  chan driver.Exit // of the cell there is
	watch context.CancelFunc
	held  undo.Stack // the way back of all but the disk
	disk  undo.Stack // the way back of the disk and the record
	again backoff    // the next try to give back what could not be
	took  []hutch.Step
}

// ask is an order and where its answer goes.
type ask struct {
	hutch.Order
	out chan hutch.Fact // has room for one
}

func newKeeper(h *Host, r record) *keeper {
	k := &keeper{host: h, in: make(chan ask), done: make(chan struct{}), rec: r, is: r.Is}
	k.disk.Push("files", func() error { return h.journal.remove(r.ID) })
	k.publish(nil)
	return k
}

func (k *keeper) run() {
	defer close(k.done)
	for {
		select {
		case a := <-k.in:
			err := k.obey(a.Order)
			f := k.publish(err)
			if k.is == hutch.Gone {
				k.host.bury(k.rec.ID)
			}
			a.out <- f
		case x := <-k.died:
			k.lost(x)
		case <-k.again.due():
			switch k.is {
			case hutch.Stopped:
				_ = k.tidy() // logged, and tried again
			case hutch.Failed:
				k.news(k.giveBack())
			}
		case <-k.host.ctx.Done():
			if k.watch != nil {
				k.watch()
			}
			return
		}
		if k.is == hutch.Gone {
			return
		}
	}
}

// publish makes what is true now the sandbox's newest fact. err is why an
// order could not be carried out.
func (k *keeper) publish(err error) hutch.Fact {
	f := k.host.fact(k.rec.ID, k.rec.Gen, k.is)
	f.Why, f.Took = k.why, k.took
	if k.is == hutch.Running || k.is == hutch.Paused {
		f.Addr = k.link.Guest
	}
	if err != nil {
		f.Err = err.Error()
	}
	k.took = nil
	k.seen.Store(&f)
	return f
}

// news tells of a fact that no order asked for.
func (k *keeper) news(err error) {
	f := k.publish(err)
	if k.is == hutch.Gone {
		k.host.bury(k.rec.ID)
	}
	k.host.cfg.News(f)
}

// interrupt stops what is being done to the sandbox, because a kill waits.
func (k *keeper) interrupt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cancel != nil {
		k.cancel()
	}
}

// doing returns a context for one act. An end that waits, or the host's, stops
// it.
func (k *keeper) doing(limit time.Duration, waiting *atomic.Int32) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(k.host.ctx, limit)
	k.mu.Lock()
	k.cancel = cancel
	k.mu.Unlock()
	if waiting.Load() > 0 {
		cancel()
	}
	return ctx, func() {
		k.mu.Lock()
		k.cancel = nil
		k.mu.Unlock()
		cancel()
	}
}

// obey carries out an order. The error, if any, says why not; k.is says where
// the sandbox stands after it.
func (k *keeper) obey(o hutch.Order) error {
	if o.Gen < k.rec.Gen && o.Want != hutch.Gone {
		return nil // an older order: the newer one has been answered
	}
	k.rec.Gen = max(k.rec.Gen, o.Gen)
	switch {
	case o.Want == hutch.Gone:
		return k.end(o)
	case o.Want == k.is:
		return nil
	case o.Want == hutch.Running && k.is == hutch.Creating:
		return k.create(o)
	case o.Want == hutch.Running && k.is == hutch.Stopped:
		return k.restart(o)
	case o.Want == hutch.Running && k.is == hutch.Paused:
		return k.resume()
	case o.Want == hutch.Paused && k.is == hutch.Running:
		return k.pause()
	case o.Want == hutch.Stopped && (k.is == hutch.Running || k.is == hutch.Paused):
		return k.halt(o)
	}
	return errors.New("a sandbox that is " + string(k.is) + " cannot become " + string(o.Want))
}

// end is the whole of a kill: every step back, in reverse. Gone is said only
// when all of them succeeded; the ones that failed stay on the stacks.
func (k *keeper) end(o hutch.Order) error {
	if o.Grace > 0 && k.is == hutch.Running {
		k.askToEnd(o.Grace)
	}
	k.why = o.Why
	k.rec.Want, k.rec.Why = hutch.Gone, o.Why
	if k.kept { // else nothing was begun, and there is no record
		if err := k.host.journal.write(k.rec, false); err != nil {
			// The kill goes on: what is recorded says less, never more.
			k.host.cfg.Log.Error("kill not journaled", "sandbox", k.rec.ID, "err", err)
		}
	}
	return k.giveBack()
}

// giveBack undoes everything that was made. On success the sandbox is gone;
// otherwise it is failed and another try is due.
func (k *keeper) giveBack() error {
	k.unwatch()
	err := k.held.Run()
	if err == nil {
		err = k.disk.Run()
	}
	if err != nil {
		k.is = hutch.Failed
		k.again.next()
		k.rec.Is, k.rec.Want, k.rec.Why = hutch.Failed, hutch.Gone, k.why
		if k.kept && k.held.Len() > 0 { // else the record itself is what is being removed
			err = errors.Join(err, k.host.journal.write(k.rec, false))
		}
		k.host.cfg.Log.Error("sandbox not cleared away yet", "sandbox", k.rec.ID, "err", err)
		return err
	}
	// Only now that no record names it may another sandbox have the slot.
	k.freeSlot()
	k.is = hutch.Gone
	return nil
}

func (k *keeper) freeSlot() {
	if k.rec.Slot >= 0 {
		k.host.cfg.Network.Free(k.rec.Slot)
		k.rec.Slot = -1
	}
}

// lost is what follows when the sandbox ended by itself.
func (k *keeper) lost(x driver.Exit) {
	k.why = hutch.ByCrash
	if x.OOM {
		k.why = hutch.ByOOM
	}
	k.news(k.giveBack())
}

// observe watches the cell from now on.
func (k *keeper) observe(c driver.Cell) {
	k.cell = c
	died := make(chan driver.Exit, 1)
	ctx, cancel := context.WithCancel(k.host.ctx)
	k.died, k.watch = died, cancel
	k.host.work.Go(func() {
		if x, err := c.Wait(ctx); err == nil {
			died <- x
		}
	})
}

// unwatch stops watching: a death that we cause is no news.
func (k *keeper) unwatch() {
	if k.watch != nil {
		k.watch()
	}
	k.died, k.watch = nil, nil
}

// step times one named part of an act.
func (k *keeper) step(name string, f func() error) error {
	began := time.Now()
	err := k.host.fault(k.rec.ID, name)
	if err == nil {
		err = f()
	}
	k.took = append(k.took, hutch.Step{Name: name, Took: time.Since(began)})
	return err
}

// back pushes the way back of a step.
func (k *keeper) back(name string, f func() error) {
	k.held.Push(name, func() error {
		if err := k.host.fault(k.rec.ID, "undo "+name); err != nil {
			return err
		}
		return f()
	})
}

// A backoff says when to try again: after 100 ms, then twice as long each time
// up to 10 s. The zero backoff is never due.
type backoff struct {
	wait  time.Duration
	timer <-chan time.Time
}

func (b *backoff) next() {
	b.wait = min(max(2*b.wait, 100*time.Millisecond), 10*time.Second)
	b.timer = time.After(b.wait)
}

// now makes the first try due at once.
func (b *backoff) now() { b.timer = time.After(0) }

func (b *backoff) due() <-chan time.Time { return b.timer }
