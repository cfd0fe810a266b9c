package lifecycle

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hutch-sh/hutch"
)

const (
	reapEvery      = 250 * time.Millisecond // a deadline is at most this late to be seen
	reconcileEvery = 2 * time.Second
	pruneEvery     = time.Hour
	killsAtOnce    = 16 // more only take turns on the processors
)

// Adopt joins the rows of a host with what it really holds, after a start or a
// reconnection. The host is right about what is; the rows are right about what
// is wanted. Kills that follow from it are carried in the background.
func (m *Manager) Adopt(ctx context.Context, host hutch.HostID, inventory []hutch.Fact) error {
	live, err := m.cfg.Store.Live(ctx, host)
	if err != nil {
		return err
	}
	held := map[hutch.SandboxID]hutch.Fact{}
	for _, f := range inventory {
		held[f.ID] = f
	}
	for _, sb := range live {
		f, there := held[sb.ID]
		delete(held, sb.ID)
		if err := m.adopt(ctx, sb, f, there); err != nil {
			return err
		}
	}
	for id := range held { // wanted by nobody
		m.background(func(ctx context.Context) { m.endOrphan(ctx, host, id) })
	}
	return nil
}

func (m *Manager) adopt(ctx context.Context, sb hutch.Sandbox, f hutch.Fact, there bool) error {
	switch {
	case !there:
		why := hutch.ByHostLoss
		if sb.Want == hutch.Gone {
			why = sb.Why
		}
		_, err := m.record(ctx, hutch.Fact{ID: sb.ID, Host: sb.Host, Gen: sb.Gen, Is: hutch.Gone, Why: why, At: time.Now()})
		return err
	case sb.Is == hutch.Creating && sb.Want == hutch.Running:
		// Its client never got an answer, and must not find it by repeating.
		if _, _, err := m.cfg.Store.OrderAny(ctx, sb.ID, hutch.Gone, hutch.ByFailure); err != nil {
			return err
		}
		m.background(func(ctx context.Context) { m.finishKill(ctx, sb.ID, hutch.ByFailure) })
		return nil
	}
	m.room.adopt(sb.ID)
	f.Gen = sb.Gen
	_, err := m.record(ctx, f)
	return err // what is wanted and is not yet: the reconciler's
}

// endOrphan kills a sandbox that a host holds and no row wants.
func (m *Manager) endOrphan(ctx context.Context, host hutch.HostID, id hutch.SandboxID) {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	f, err := m.cfg.Hosts.Apply(ctx, host, hutch.Order{ID: id, Gen: 1<<63 - 1, Want: hutch.Gone, Why: hutch.ByOrphan})
	if err != nil || f.Is != hutch.Gone {
		m.cfg.Log.Error("orphan not ended yet; the host goes on", "sandbox", id, "is", f.Is, "err", err)
	}
}

func (m *Manager) finishKill(ctx context.Context, id hutch.SandboxID, why hutch.Reason) {
	if err := m.endAny(ctx, id, why); err != nil {
		m.cfg.Log.Error("kill goes on", "sandbox", id, "why", why, "err", err)
	}
}

// Run reaps, reconciles and prunes until ctx ends, then waits for the orders it
// was carrying.
func (m *Manager) Run(ctx context.Context) {
	reap, reconcile, prune := time.NewTicker(reapEvery), time.NewTicker(reconcileEvery), time.NewTicker(pruneEvery)
	defer reap.Stop()
	defer reconcile.Stop()
	defer prune.Stop()
	defer m.work.Wait()
	for {
		var err error
		select {
		case <-reap.C:
			err = m.reap(ctx)
		case <-reconcile.C:
			err = m.reconcile(ctx)
		case <-m.wake:
			err = m.reconcile(ctx)
		case <-prune.C:
			_, err = m.cfg.Store.Prune(ctx, time.Now().Add(-rememberTime))
		case <-ctx.Done():
			return
		}
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.Error("housekeeping failed; it is tried again", "err", err)
		}
	}
}

// Wait returns when the orders carried in the background are done. Run does it
// by itself.
func (m *Manager) Wait() { m.work.Wait() }

// Tick looks once for passed deadlines and for orders that nobody carries, and
// returns when what it found has been carried as far as it goes. Run does the
// same without waiting.
func (m *Manager) Tick(ctx context.Context) error {
	err := m.reap(ctx)
	if err == nil {
		err = m.reconcile(ctx)
	}
	m.work.Wait()
	return err
}

// reap orders what each passed deadline says and carries it.
func (m *Manager) reap(ctx context.Context) error {
	due, err := m.cfg.Store.Due(ctx, time.Now())
	if err != nil {
		return err
	}
	for _, sb := range due {
		if m.busy(sb.ID) {
			continue // the order under way first; the deadline stays due
		}
		m.begin(sb.ID)
		m.background(func(ctx context.Context) {
			defer m.finish(sb.ID)
			m.expire(ctx, sb)
		})
	}
	return nil
}

func (m *Manager) expire(ctx context.Context, sb hutch.Sandbox) {
	if now, err := m.cfg.Store.Find(ctx, sb.ID); err != nil || !now.Alive() || now.Deadline.IsZero() || now.Deadline.After(time.Now()) {
		return // it got more time, or ended, since it was looked at
	}
	if sb.OnTimeout == hutch.Gone || sb.Is == hutch.Failed {
		m.finishKill(ctx, sb.ID, hutch.ByTimeout)
		return
	}
	now, _, err := m.cfg.Store.OrderAny(ctx, sb.ID, sb.OnTimeout, hutch.ByTimeout)
	if hutch.KindOf(err) == hutch.Conflict {
		// Nothing to do from the state it is in: its time is up without it.
		if _, err = m.cfg.Store.SetDeadline(ctx, sb.Org, sb.ID, 0, time.Time{}); err == nil {
			return
		}
	}
	if err == nil && now.Is != now.Want {
		_, err = m.settle(ctx, now)
	}
	if err != nil {
		m.cfg.Log.Error("deadline not carried out yet", "sandbox", sb.ID, "err", err)
	}
}

// reconcile carries the orders that nobody is carrying: those of an earlier
// run, and those whose host could not be reached.
func (m *Manager) reconcile(ctx context.Context) error {
	m.retell(ctx)
	unmet, err := m.cfg.Store.Unmet(ctx)
	if err != nil {
		return err
	}
	for _, sb := range unmet {
		if m.busy(sb.ID) || sb.Is == hutch.Failed && sb.Want != hutch.Gone {
			continue
		}
		m.begin(sb.ID)
		m.background(func(ctx context.Context) {
			defer m.finish(sb.ID)
			if now, err := m.cfg.Store.Find(ctx, sb.ID); err != nil || !m.alone(sb.ID) || now.Gen != sb.Gen || now.Is != sb.Is {
				return // it went on since it was looked at
			}
			switch {
			case sb.Want == hutch.Gone:
				m.finishKill(ctx, sb.ID, sb.Why)
			case sb.Is == hutch.Creating:
				m.finishKill(ctx, sb.ID, hutch.ByFailure)
			default:
				if _, err := m.settle(ctx, sb); err != nil {
					m.cfg.Log.Error("order not carried out", "sandbox", sb.ID, "want", sb.Want, "err", err)
				}
			}
		})
	}
	return nil
}

// retell records the news that could not be recorded when they came.
func (m *Manager) retell(ctx context.Context) {
	m.mu.Lock()
	facts := slices.Collect(maps.Values(m.untold))
	m.mu.Unlock()
	for _, f := range facts {
		if _, err := m.record(ctx, f); err != nil {
			m.cfg.Log.Error("news not recorded yet", "sandbox", f.ID, "is", f.Is, "err", err)
			continue
		}
		m.mu.Lock()
		delete(m.untold, f.ID)
		m.mu.Unlock()
	}
}

// background carries something that no request waits for, when its turn comes.
// Run waits for it.
func (m *Manager) background(f func(ctx context.Context)) {
	m.work.Go(func() {
		m.turns <- struct{}{}
		defer func() { <-m.turns }()
		f(context.Background())
	})
}

// forEach calls f for every item, several at a time, and waits.
func forEach[T any](items []T, atOnce int, f func(T)) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, atOnce)
	for _, it := range items {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			f(it)
		})
	}
	wg.Wait()
}
