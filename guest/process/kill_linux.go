package process

import (
	"context"
	"maps"
	"strconv"
	"time"
)

// A Kill says what a [Table.Kill] ended.
type Kill struct {
	Job   *Job // nil for a process that is not a job's own
	PID   int
	Ended int // how many processes were ended; 0: it had ended before
}

// Kill ends what id names, and everything that started, and returns when it is
// gone. id is a job's process id or execution id, or the pid of any process.
// A job that has ended by itself may have left processes behind: they end too.
// The error is [ErrUnknown], [ErrProtected], or says what does not end.
func (t *Table) Kill(ctx context.Context, id string) (Kill, error) {
	if j := t.Find(id); j != nil {
		n, err := j.end(ctx, byKill)
		if err != nil {
			return Kill{}, err
		}
		select {
		case <-j.done:
		case <-ctx.Done():
			return Kill{}, ctx.Err()
		}
		return Kill{Job: j, PID: j.PID(), Ended: n}, nil
	}
	pid, err := strconv.Atoi(id)
	if err != nil || pid <= 0 {
		return Kill{}, ErrUnknown
	}
	target, ok := stat(pid)
	switch {
	case !ok:
		return Kill{}, ErrUnknown
	case t.kin[pid]:
		return Kill{}, ErrProtected
	}
	killed, err := end(ctx, hunt{func(all []Stat) []Stat {
		return descendants(all,
			func(s Stat) bool { return s.PID == pid && s.Started == target.Started },
			func(s Stat) bool { return t.kin[s.PID] })
	}, func(p int) bool { return p == pid }})
	if err != nil {
		return Kill{}, err
	}
	n := len(killed)
	awaitReaped(ctx, killed)
	return Kill{PID: pid, Ended: n}, nil
}

// users picks every process a user started, directly or not.
func (t *Table) users() matcher {
	own := func(s Stat) bool { return t.kin[s.PID] }
	if t.cfg.Alone {
		return func(all []Stat) []Stat {
			return descendants(all, func(s Stat) bool { return !own(s) }, own)
		}
	}
	return func(all []Stat) []Stat {
		tags := t.tags(all)
		t.mu.Lock()
		pids := map[int]bool{}
		for _, j := range t.jobs {
			select {
			case <-j.done:
			default:
				pids[j.PID()] = true
			}
		}
		t.mu.Unlock()
		return descendants(all, func(s Stat) bool {
			_, tagged := tags[s.PID]
			return tagged || pids[s.PID]
		}, own)
	}
}

// anyone returns the cheap test that goes with users.
func (t *Table) anyone() func(pid int) bool {
	if t.cfg.Alone {
		return func(pid int) bool { return !t.kin[pid] }
	}
	return t.sure(0)
}

// condemn has every running job count as killed, however it ends.
func (t *Table) condemn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, j := range t.jobs {
		j.mu.Lock()
		if !j.exited && j.cause == byItself {
			j.cause = byKill
		}
		j.mu.Unlock()
	}
}

// Shutdown ends every process a user started: SIGTERM, up to grace for each to
// end, then SIGKILL. It returns how many there were, at once when there are
// none. Nothing can be started meanwhile.
func (t *Table) Shutdown(ctx context.Context, grace time.Duration) (int, error) {
	t.mu.Lock()
	t.closing++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.closing--
		t.mu.Unlock()
	}()
	t.condemn()
	match := t.users()
	ended := map[key]bool{}
	if grace > 0 {
		var err error
		if ended, err = terminate(ctx, match, grace); err != nil {
			return len(ended), err
		}
	}
	killed, err := end(context.WithoutCancel(ctx), hunt{match, t.anyone()})
	maps.Copy(ended, killed)
	if err != nil {
		return len(ended), err
	}
	awaitReaped(ctx, killed)
	return len(ended), nil
}

// Close kills what this table started and releases everything. Nothing can be
// started afterwards.
func (t *Table) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.condemn()
	killed, err := end(context.Background(), hunt{t.users(), t.anyone()})
	t.mu.Lock()
	var left []*capture
	for _, j := range t.jobs {
		left = append(left, j.out, j.err)
	}
	left = append(left, t.lingering...)
	t.mu.Unlock()
	for _, c := range left {
		if serr := c.stop(); err == nil {
			err = serr
		}
	}
	t.wg.Wait()
	awaitReaped(context.Background(), killed)
	t.null.Close()
	return err
}
