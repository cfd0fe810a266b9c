package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// endLimit bounds how long the end of a tree may take. SIGKILL takes
// microseconds; only a process stuck in the kernel outlasts this.
const endLimit = 10 * time.Second

// reapLimit bounds the wait for somebody else's wait on a killed process.
const reapLimit = 500 * time.Millisecond

// maxWatched is how many processes are watched at once; each costs a descriptor.
const maxWatched = 256

// crowd is how many processes there must be before an end begins by stopping
// what it can name without looking at everything.
const crowd = 64

// A matcher picks processes out of a snapshot.
type matcher func(all []Stat) []Stat

// A hunt says which processes are to be ended.
type hunt struct {
	match matcher
	sure  func(pid int) bool // a cheap test that may miss some but is never wrong
}

// descendants returns the seeds and everything below them, but nothing that
// spared picks and nothing below that.
func descendants(all []Stat, seed, spared func(Stat) bool) []Stat {
	children := make(map[int][]int, len(all))
	for i, s := range all {
		children[s.PPID] = append(children[s.PPID], i)
	}
	in := make([]bool, len(all))
	var queue []int
	for i, s := range all {
		if seed(s) && !spared(s) {
			in[i] = true
			queue = append(queue, i)
		}
	}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		for _, c := range children[all[i].PID] {
			if !in[c] && !spared(all[c]) {
				in[c] = true
				queue = append(queue, c)
			}
		}
	}
	var out []Stat
	for i, s := range all {
		if in[i] {
			out = append(out, s)
		}
	}
	return out
}

// living drops zombies.
func living(s []Stat) []Stat {
	return slices.DeleteFunc(s, Stat.zombie)
}

// key tells a process from a later one with the same pid.
type key struct {
	pid     int
	started time.Duration
}

func keyOf(s Stat) key { return key{s.PID, s.Started} }

// end kills what h picks until it picks nothing that lives, waits for the
// deaths, and returns who died. Their zombies may still stand in /proc: see
// [awaitReaped].
//
// A process that forks faster than it is found would win against killing
// alone: each death makes room for another child. So where there are many, and
// from the second round on, everything is stopped first, which takes the forks
// away but keeps the room.
func end(ctx context.Context, h hunt) (map[key]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	killed := map[key]bool{}
	calm, err := subdue(ctx, h)
	if err != nil {
		return killed, err
	}
	for round := 0; ; round++ {
		all, err := snapshot()
		if err != nil {
			return killed, err
		}
		targets := living(h.match(all))
		if len(targets) == 0 {
			return killed, nil
		}
		if round > 0 || !calm {
			if targets, err = freeze(ctx, h.match, targets); err != nil {
				return killed, err
			}
		}
		for _, s := range targets {
			killed[keyOf(s)] = true
		}
		if err := signalAndWait(ctx, targets, unix.SIGKILL); err != nil {
			return killed, err
		}
	}
}

// subdue stops, in a crowd, what is surely to be ended, and reports whether
// there was no crowd. A bomb's hundreds of spinning processes leave the agent a
// hundredth of the processor; each one stopped gives some of it back before the
// slow work begins.
func subdue(ctx context.Context, h hunt) (calm bool, err error) {
	stopped := map[int]bool{}
	for {
		pids, err := pids()
		if err != nil {
			return false, err
		}
		if len(pids) < crowd && len(stopped) == 0 {
			return true, nil
		}
		fresh := false
		for _, pid := range pids {
			if stopped[pid] || !h.sure(pid) {
				continue
			}
			fresh = true
			stopped[pid] = true
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil && !errors.Is(err, unix.ESRCH) {
				return false, fmt.Errorf("stop process %d: %w", pid, err)
			}
		}
		if !fresh {
			return false, nil
		}
		if err := ctx.Err(); err != nil {
			return false, fmt.Errorf("%d processes, and more all the time: %w", len(stopped), err)
		}
	}
}

// freeze stops everything match picks, until it picks nothing new, and returns
// all of it.
func freeze(ctx context.Context, match matcher, found []Stat) ([]Stat, error) {
	stopped := map[key]bool{}
	for {
		fresh := false
		for _, s := range found {
			if stopped[keyOf(s)] {
				continue
			}
			fresh = true
			stopped[keyOf(s)] = true
			if err := unix.Kill(s.PID, unix.SIGSTOP); err != nil && !errors.Is(err, unix.ESRCH) {
				return nil, fmt.Errorf("stop process %d: %w", s.PID, err)
			}
		}
		if !fresh {
			return found, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%d processes, and more all the time: %w", len(stopped), err)
		}
		all, err := snapshot()
		if err != nil {
			return nil, err
		}
		found = living(match(all))
	}
}

// signalAndWait sends sig to each process and waits until all of them have
// ended. A process that is already gone is fine.
func signalAndWait(ctx context.Context, targets []Stat, sig unix.Signal) error {
	w := watch(targets)
	defer w.close()
	for _, s := range targets {
		if err := w.signal(s.PID, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", s.PID, err)
		}
	}
	return w.wait(ctx)
}

// A watcher holds pidfds, so that a signal cannot reach a later process with
// the same pid and a death is an event.
type watcher struct {
	fds   map[int]int  // pid to pidfd
	blind map[int]bool // pids without one: there are too many
}

func watch(targets []Stat) *watcher {
	w := &watcher{fds: make(map[int]int, len(targets)), blind: map[int]bool{}}
	for _, s := range targets {
		fd, err := -1, error(unix.EMFILE)
		if len(w.fds) < maxWatched {
			fd, err = unix.PidfdOpen(s.PID, 0)
		}
		switch {
		case err == nil:
			w.fds[s.PID] = fd
		case errors.Is(err, unix.ESRCH):
		default:
			w.blind[s.PID] = true
		}
	}
	return w
}

func (w *watcher) signal(pid int, sig unix.Signal) error {
	if fd, ok := w.fds[pid]; ok {
		return unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if w.blind[pid] {
		return unix.Kill(pid, sig)
	}
	return unix.ESRCH
}

// wait returns when every process has ended, or ctx's error.
func (w *watcher) wait(ctx context.Context) error {
	for len(w.fds) > 0 {
		polls := make([]unix.PollFd, 0, len(w.fds))
		pids := make([]int, 0, len(w.fds))
		for pid, fd := range w.fds {
			polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			pids = append(pids, pid)
		}
		// The kernel cannot wait for a context, so look up now and then.
		n, err := unix.Poll(polls, 100)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n > 0 {
			for i, p := range polls {
				if p.Revents != 0 {
					_ = unix.Close(int(p.Fd)) // nothing was written to it
					delete(w.fds, pids[i])
				}
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("processes %v do not end: %w", pids, err)
		}
	}
	return awaitGone(ctx, slices.Collect(maps.Keys(w.blind)))
}

func (w *watcher) close() {
	for _, fd := range w.fds {
		_ = unix.Close(fd) // nothing was written to it
	}
}

// awaitGone waits for processes that cannot be watched.
func awaitGone(ctx context.Context, pids []int) error {
	if len(pids) == 0 {
		return nil
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		pids = slices.DeleteFunc(pids, func(pid int) bool {
			s, ok := stat(pid)
			return !ok || s.zombie()
		})
		if len(pids) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end: %w", pids, ctx.Err())
		}
	}
}

// awaitReaped waits a short while until the killed are not even zombies, so
// that nobody who asks for their pids sees them. Their parents do the reaping:
// the agent for its own children, init for orphans. One whose parent lives and
// does not care stays a zombie; it is dead all the same.
func awaitReaped(ctx context.Context, killed map[key]bool) {
	if len(killed) == 0 {
		return
	}
	limit := time.NewTimer(reapLimit)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		left := false
		for k := range killed {
			s, ok := stat(k.pid)
			if !ok || s.Started != k.started {
				delete(killed, k)
				continue
			}
			left = true
		}
		if !left {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// terminate sends SIGTERM to what match picks and waits for it to end, up to
// grace from when everybody has been asked. It returns whom it asked; who is
// left after that is [end]'s.
func terminate(ctx context.Context, match matcher, grace time.Duration) (map[key]bool, error) {
	asked := map[key]bool{}
	for first := true; ; first = false {
		all, err := snapshot()
		if err != nil {
			return asked, err
		}
		targets := living(match(all))
		if len(targets) == 0 || ctx.Err() != nil {
			return asked, nil
		}
		w := watch(targets)
		for _, s := range targets {
			if asked[keyOf(s)] {
				continue
			}
			asked[keyOf(s)] = true
			// Either may fail because it has just ended, which is what we want.
			_ = w.signal(s.PID, unix.SIGTERM)
			_ = w.signal(s.PID, unix.SIGCONT)
		}
		if first {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, grace)
			defer cancel()
		}
		err = w.wait(ctx)
		w.close()
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return asked, nil
		} else if err != nil {
			return asked, err
		}
	}
}

// kin returns the pids of init, the agent and everything above the agent: what
// must never be signalled.
func kin() map[int]bool {
	k := map[int]bool{1: true}
	for pid := os.Getpid(); pid > 1 && !k[pid]; {
		k[pid] = true
		s, ok := stat(pid)
		if !ok {
			break
		}
		pid = s.PPID
	}
	return k
}
