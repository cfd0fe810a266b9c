package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// quiet and settle say how long a job waits for output after its process has
// ended while others still hold its pipes: until nothing came for quiet, or
// for settle at most. Those others may live for ever.
const (
	quiet  = 20 * time.Millisecond
	settle = 250 * time.Millisecond
)

// Exit codes a shell would give.
const (
	ExitTimeout   = 124
	ExitNotRun    = 126 // found, but it could not be run
	ExitNotFound  = 127
	exitUnknown   = 255 // it ended, but how is not known
	sigkillExited = 128 + int(unix.SIGKILL)
)

// A Command says what to run.
type Command struct {
	Argv    []string // Argv[0] is looked up as the process itself would
	First   []string // must end with exit code 0 before Argv is started; or nil
	Shell   bool     // let /bin/sh run Argv[0] if it is alone, no program, and reads like a line of shell
	Dir     string   // absolute, exists
	Env     []string
	Stdin   *os.File      // of Argv, closed when it has started; nil: an input at its end
	Timeout time.Duration // counted from the start; must be positive
	Missing string        // what to say when Argv[0] (or First[0]) is not installed
	Cleanup func()        // called once, when nothing of it needs its files any more; or nil

	Label      Label
	Background bool // listed, and the end of its output kept instead of the beginning
}

// A Label is what a job is known by. It is not interpreted.
type Label struct {
	Prefix   string // of the process id
	Name     string // default: Language or "command", and a part of the id
	Language string
	Line     string // the command as its user wrote it
}

// A Status is a stage in a job's life.
type Status uint8

// Stages. Everything but Running is final.
const (
	Running   Status = iota
	Completed        // exit code 0
	Failed           // another exit code, or not started
	Killed           // ended by [Table.Kill], by a shutdown or at its timeout
)

// A Result says how a job ended.
type Result struct {
	PID            int // 0: never started
	ExitCode       int
	Stdout, Stderr string
	Truncated      bool // some output was dropped
	TimedOut       bool
	Status         Status
	Took           time.Duration
}

// why a job's tree was ended from outside.
type cause uint8

const (
	byItself cause = iota
	byKill
	byTimeout
)

// A Job is one run of a [Command]. Its methods may be called from any goroutine.
type Job struct {
	ID          string // of the process, as users know it
	ExecutionID string
	Label       Label
	Background  bool
	Started     time.Time

	table    *Table
	cmd      Command
	tag      uint64
	deadline time.Time
	out, err *capture
	outW     int // the writing ends, open until the last step has started
	errW     int
	done     chan struct{} // closed when result is final

	mu     sync.Mutex
	pid    int           // of the process now running, or of the last one
	start  time.Duration // its start time since boot; 0: unknown, and the tag suffices
	cause  cause
	ending chan struct{} // open while somebody ends the tree; nil: nobody
	exited bool          // the process has ended by itself or otherwise
	failed error         // why the tree could not be ended
	result Result
}

// Done is closed when the job has ended.
func (j *Job) Done() <-chan struct{} { return j.done }

// PID returns the pid of the job's process, and 0 before it was started.
func (j *Job) PID() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pid
}

// Result returns how the job ended, or how it stands: then Status is Running.
// The output is a copy.
func (j *Job) Result() Result {
	j.mu.Lock()
	r := j.result
	if r.Status == Running {
		r.PID, r.Took = j.pid, time.Since(j.Started)
	}
	j.mu.Unlock()
	if r.Status == Running || j.Background {
		var cut bool
		say := r.Stderr
		r.Stdout, r.Truncated = j.out.output()
		r.Stderr, cut = j.err.output()
		r.Truncated = r.Truncated || cut
		if say != "" {
			note(&r.Stderr, say)
		}
	}
	return r
}

// Wait returns the result. When ctx ends first the whole tree is killed: nobody
// is left to tell.
func (j *Job) Wait(ctx context.Context) Result {
	select {
	case <-j.done:
	case <-ctx.Done():
		if _, err := j.end(context.WithoutCancel(ctx), byKill); err != nil {
			j.table.log.Warn("an abandoned run could not be ended", "job", j.ID, "error", err)
			return j.Result()
		}
		<-j.done
	}
	return j.Result()
}

// Release gives back the memory counted for the output. The caller of a job
// that is not in the background owes it, once the result is used.
func (j *Job) Release() {
	j.out.refund()
	j.err.refund()
}

// end kills everything the job started and returns how many processes that
// were. Calls at the same time share one answer.
func (j *Job) end(ctx context.Context, why cause) (int, error) {
	for {
		j.mu.Lock()
		if j.ending == nil {
			break
		}
		busy := j.ending
		j.mu.Unlock()
		select {
		case <-busy:
			j.mu.Lock()
			err := j.failed
			j.mu.Unlock()
			return 0, err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	finished := make(chan struct{})
	j.ending = finished
	if !j.exited && j.cause == byItself {
		j.cause = why
	}
	j.mu.Unlock()

	killed, err := end(ctx, hunt{j.match(), j.table.sure(j.tag)})
	j.mu.Lock()
	j.failed = err
	j.ending = nil
	j.mu.Unlock()
	close(finished)
	n := len(killed)
	if why != byTimeout { // at the timeout the job itself has yet to reap
		awaitReaped(ctx, killed)
	}
	return n, err
}

// match picks everything this job started. The tag decides; where it was
// changed, the session and the parents do.
func (j *Job) match() matcher {
	j.mu.Lock()
	pid, start, exited := j.pid, j.start, j.exited
	j.mu.Unlock()
	return func(all []Stat) []Stat {
		tags := j.table.tags(all)
		seed := func(s Stat) bool {
			if t, ok := tags[s.PID]; ok {
				return t == j.tag
			}
			if pid == 0 {
				return false
			}
			// While the process has not been waited for, its pid and its session
			// cannot be anybody else's. Later, only members older than the
			// session's end would carry it, and they keep the number taken.
			return s.PID == pid && (!exited || s.Started == start) || s.Session == pid && s.Started >= start
		}
		spared := j.table.spared(tags, j.tag)
		return descendants(all, seed, spared)
	}
}

// attend sees the job through: its steps, its timeout, its output. It owns the
// job's processes.
func (j *Job) attend(c *child) {
	var ws unix.WaitStatus
	var say string
	code := ExitNotRun
	for first := j.cmd.First != nil; ; first = false {
		var err error
		ws, err = j.await(c)
		code = exitCode(ws)
		if err != nil {
			code = exitUnknown
			say = "the agent lost sight of the process: " + err.Error()
		}
		if !first {
			break
		}
		if code != 0 || j.stopped() {
			j.closeInputs()
			break
		}
		if c, say, code = j.launch(j.cmd.Argv, true); c == nil {
			break
		}
		if j.stopped() { // the kill may have looked before the launch
			if _, err := j.end(context.Background(), byKill); err != nil {
				j.table.log.Warn("a killed job goes on", "job", j.ID, "error", err)
			}
		}
	}
	j.settleOutput()
	j.finish(code, say)
}

// stopped reports whether somebody is ending or has ended the job.
func (j *Job) stopped() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cause != byItself
}

// await waits for c, and ends the tree at the deadline.
func (j *Job) await(c *child) (unix.WaitStatus, error) {
	ws, _, err := c.wait(j.deadline)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if _, eerr := j.end(context.Background(), byTimeout); eerr != nil {
			j.table.log.Warn("a job could not be ended at its timeout", "job", j.ID, "error", eerr)
		}
		ws, _, err = c.wait(time.Now().Add(endLimit))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.release() // it stays as it is; there is nothing stronger than SIGKILL
		}
	}
	j.mu.Lock()
	j.exited = true
	busy := j.ending
	j.mu.Unlock()
	if busy != nil { // a kill is done when the whole tree is gone
		<-busy
	}
	return ws, err
}

// settleOutput returns when the output is complete, or when what is missing
// can only come from processes that outlive this one: everything that was in
// the pipes at this one's end is in its output, however slow the machine.
func (j *Job) settleOutput() {
	if j.out.ended() && j.err.ended() {
		return
	}
	out1, err1 := j.out.written(), j.err.written()
	j.out.caughtUp(out1)
	j.err.caughtUp(err1)
	limit := time.NewTimer(settle)
	defer limit.Stop()
	tick := time.NewTimer(quiet)
	defer tick.Stop()
	out, err := j.out.done, j.err.done
	seen := j.out.seen.Load() + j.err.seen.Load()
	for out != nil || err != nil {
		select {
		case <-out:
			out = nil
		case <-err:
			err = nil
		case <-limit.C:
			return
		case <-tick.C:
			now := j.out.seen.Load() + j.err.seen.Load()
			if now == seen {
				return
			}
			seen = now
			tick.Reset(quiet)
		}
	}
}

// finish makes the result final.
func (j *Job) finish(code int, say string) {
	r := Result{ExitCode: code, Took: time.Since(j.Started)}
	j.mu.Lock()
	r.PID = j.pid
	why := j.cause
	failed := j.failed
	j.exited = true
	j.mu.Unlock()
	switch {
	case why == byTimeout:
		r.TimedOut, r.Status, r.ExitCode = true, Killed, ExitTimeout
		say = fmt.Sprintf("timed out after %s: the process and everything it started were killed", j.cmd.Timeout)
		if failed != nil {
			say = fmt.Sprintf("timed out after %s: not everything it started could be killed: %v", j.cmd.Timeout, failed)
		}
	case why == byKill:
		r.Status = Killed
		if r.ExitCode == 0 {
			r.ExitCode = sigkillExited
		}
	case code == 0:
		r.Status = Completed
	default:
		r.Status = Failed
	}
	if j.Background {
		r.Stderr = say // the output is read when it is asked for
	} else {
		var cut bool
		r.Stdout, r.Truncated = j.out.output()
		r.Stderr, cut = j.err.output()
		r.Truncated = r.Truncated || cut
		if say != "" {
			note(&r.Stderr, say)
		}
		j.out.close()
		j.err.close()
	}
	j.mu.Lock()
	j.result = r
	j.mu.Unlock()
	if j.cmd.Cleanup != nil {
		j.cmd.Cleanup()
	}
	j.table.finished(j)
	close(j.done)
}
