package process

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of a [Table].
var (
	ErrClosing   = errors.New("the sandbox is shutting down")
	ErrUnknown   = errors.New("no such process")
	ErrProtected = errors.New("this process belongs to the sandbox itself")
)

const (
	maxFinished  = 256 // finished background jobs remembered
	maxLingering = 256 // streams read on after their job has ended
	noFileSoft   = 64 << 10
	epochBits    = 28
	tagBase      = uint64(1) << 62 // as a limit: four exbibytes, so none
)

// A Config says how much a [Table] keeps. Zero values are replaced by defaults.
type Config struct {
	Limit   int   // bytes kept of each stream of a foreground job; default 10 MiB
	Tail    int   // bytes kept of each stream of a background job; default 256 KiB
	Budget  int64 // bytes all of that may be together; default 128 MiB
	Reserve int   // processes (threads are such) users must leave to the agent; default 48

	// Alone says that every process but init and the agent is a user's, as it is
	// in a sandbox. Otherwise a shutdown ends only what this table started.
	Alone bool

	Log *slog.Logger
}

// A Table holds every job. Its methods may be called from any goroutine.
type Table struct {
	cfg     Config
	log     *slog.Logger
	null    *os.File
	kin     map[int]bool
	budget  budget
	tagging bool
	rss     unix.Rlimit
	nproc   *unix.Rlimit // for children; nil: as the agent's
	nofile  *unix.Rlimit
	ceiling uint64 // of tasks in the whole sandbox, above which nothing is started; 0: none
	wg      sync.WaitGroup

	mu        sync.Mutex
	epoch     uint64 // what all tags of this table begin with
	tagCount  uint32
	jobs      map[string]*Job // by process id
	finishedQ []*Job          // finished background jobs, oldest first
	lingering []*capture      // of finished jobs, oldest first
	closing   int             // shutdowns under way; nothing starts meanwhile
	closed    bool
	total     uint64
	failures  uint64
}

// Counts are figures of a [Table].
type Counts struct {
	Total  uint64 // started or tried
	Failed uint64 // ended with another exit code than 0
	Active int
}

// New returns an empty table. It fails only when the machine gives no
// descriptor. Close it.
func New(cfg Config) (*Table, error) {
	cfg.Limit = cmp.Or(cfg.Limit, 10<<20)
	cfg.Tail = cmp.Or(cfg.Tail, 256<<10)
	cfg.Budget = cmp.Or(cfg.Budget, 128<<20)
	cfg.Reserve = cmp.Or(cfg.Reserve, 48)
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	null, err := nullInput()
	if err != nil {
		return nil, err
	}
	t := &Table{cfg: cfg, log: cfg.Log, null: null, kin: kin(), jobs: map[string]*Job{}}
	t.budget.left.Store(cfg.Budget)
	t.limits()
	return t, nil
}

// limits decides on the limits of children: fewer processes than the agent may
// have, so that a fork bomb leaves it room for its threads; and the tags.
func (t *Table) limits() {
	var b [8]byte
	rand.Read(b[:]) // never fails, since Go 1.24
	t.epoch = tagBase | (binary.LittleEndian.Uint64(b[:])&(1<<epochBits-1))<<32
	if err := unix.Getrlimit(unix.RLIMIT_RSS, &t.rss); err == nil && t.rss.Max >= t.epoch|0xffffffff {
		t.tagging = true
	} else {
		t.log.Warn("processes cannot be tagged: those that leave their session and their parents outlive a kill", "error", err)
	}
	var n unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &n); err == nil && n.Cur < 1<<30 {
		left := n.Cur - min(uint64(t.cfg.Reserve), n.Cur/4)
		t.nproc = &unix.Rlimit{Cur: left, Max: left}
		// Users' programs stop at that number, but those the agent starts for them
		// count against its own. They may have half of the reserve: enough to look
		// around after a fork bomb.
		if t.cfg.Alone && n.Cur < 1<<16 { // the kernel's count has 16 bits
			t.ceiling = n.Cur - (n.Cur-left)/2
		}
	}
	// Go raises its own soft limit at start; a program that closes every
	// possible descriptor would take minutes with a limit of a billion.
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &n); err == nil && n.Cur > noFileSoft {
		t.nofile = &unix.Rlimit{Cur: noFileSoft, Max: n.Max}
	}
}

// full reports whether one more process could take the room the agent's own
// threads need. A Go program that cannot have a thread ends.
func (t *Table) full() bool {
	if t.ceiling == 0 {
		return false
	}
	var si unix.Sysinfo_t
	return unix.Sysinfo(&si) == nil && uint64(si.Procs) >= t.ceiling
}

// SetBudget changes how many bytes of output all jobs may hold together.
func (t *Table) SetBudget(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.budget.left.Add(n - t.cfg.Budget)
	t.cfg.Budget = n
}

// Start runs cmd and returns its job, which may be over already: that a program
// cannot be started is in the job's result. Of the files and the cleanup in cmd
// it takes care in every case. The error is [ErrClosing], or says that the
// agent itself is out of descriptors; then nothing was started.
func (t *Table) Start(cmd Command) (*Job, error) {
	j := &Job{Label: cmd.Label, Background: cmd.Background, Started: time.Now(), table: t, cmd: cmd, done: make(chan struct{})}
	j.deadline = j.Started.Add(cmd.Timeout)
	id := newID()
	j.ID, j.ExecutionID = cmd.Label.Prefix+"_"+id, "exec_"+id
	if j.Label.Name == "" {
		j.Label.Name = cmp.Or(cmd.Label.Language, "command") + "-" + id[:6]
	}
	if err := t.enter(j); err != nil {
		if cmd.Stdin != nil {
			cmd.Stdin.Close()
		}
		if cmd.Cleanup != nil {
			cmd.Cleanup()
		}
		return nil, err
	}
	defer t.wg.Done()
	argv, last := cmd.Argv, true
	if cmd.First != nil {
		argv, last = cmd.First, false
	}
	c, say, code := j.launch(argv, last)
	t.wg.Go(func() { j.out.read(); t.unlinger(j.out) })
	t.wg.Go(func() { j.err.read(); t.unlinger(j.err) })
	if c == nil {
		if !last {
			j.closeInputs()
		}
		j.finish(code, say)
		return j, nil
	}
	t.wg.Go(func() { j.attend(c) })
	if t.isClosing() { // the shutdown may have looked before the launch
		if _, err := j.end(context.Background(), byKill); err != nil {
			t.log.Warn("a job started during a shutdown goes on", "job", j.ID, "error", err)
		}
	}
	return j, nil
}

// enter gives j its pipes and its place in the table.
func (t *Table) enter(j *Job) (err error) {
	k, limit := keepHead, t.cfg.Limit
	if j.Background {
		k, limit = keepTail, t.cfg.Tail
	}
	if j.out, j.outW, err = newCapture(k, limit, &t.budget); err != nil {
		return err
	}
	if j.err, j.errW, err = newCapture(k, limit, &t.budget); err != nil {
		j.out.file.Close()
		_ = unix.Close(j.outW) // nothing was written to it
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing > 0 || t.closed {
		for _, f := range []*os.File{j.out.file, j.err.file} {
			f.Close()
		}
		_ = unix.Close(j.outW) // nothing was written to it
		_ = unix.Close(j.errW)
		return ErrClosing
	}
	t.wg.Add(1) // Start's own, so that Close waits for what Start adds
	t.tagCount++
	j.tag = t.epoch | uint64(t.tagCount)
	t.jobs[j.ID] = j
	t.total++
	return nil
}

func (t *Table) isClosing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closing > 0 || t.closed
}

// finished moves j to where ended jobs are.
func (t *Table) finished(j *Job) {
	t.mu.Lock()
	var drop []*Job
	var stop []*capture
	for _, c := range []*capture{j.out, j.err} {
		if !c.ended() {
			t.lingering = append(t.lingering, c)
		}
	}
	if n := len(t.lingering) - maxLingering; n > 0 {
		stop = slices.Clone(t.lingering[:n])
		t.lingering = slices.Delete(t.lingering, 0, n)
	}
	j.mu.Lock()
	if j.result.ExitCode != 0 {
		t.failures++
	}
	j.mu.Unlock()
	if !j.Background {
		delete(t.jobs, j.ID)
	} else {
		t.finishedQ = append(t.finishedQ, j)
		for len(t.finishedQ) > maxFinished {
			drop = append(drop, t.finishedQ[0])
			delete(t.jobs, t.finishedQ[0].ID)
			t.finishedQ = t.finishedQ[1:]
		}
	}
	t.mu.Unlock()
	for _, d := range drop {
		d.Release()
	}
	for _, c := range stop {
		if err := c.stop(); err != nil {
			t.log.Warn("a stream cannot be closed", "error", err)
		}
	}
}

// unlinger forgets a stream that has ended.
func (t *Table) unlinger(c *capture) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lingering = slices.DeleteFunc(t.lingering, func(x *capture) bool { return x == c })
}

// Jobs returns the background jobs, oldest first.
func (t *Table) Jobs() []*Job {
	t.mu.Lock()
	all := slices.Collect(maps.Values(t.jobs))
	t.mu.Unlock()
	all = slices.DeleteFunc(all, func(j *Job) bool { return !j.Background })
	slices.SortFunc(all, func(a, b *Job) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.tag, b.tag))
	})
	return all
}

// Find returns the job with this process id or execution id, or whose process
// has or had this pid; nil if there is none.
func (t *Table) Find(id string) *Job {
	pid, _ := strconv.Atoi(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	if j, ok := t.jobs[id]; ok {
		return j
	}
	var old *Job
	for _, j := range t.jobs {
		if j.ExecutionID == id {
			return j
		}
		if pid <= 0 || j.PID() != pid {
			continue
		}
		select {
		case <-j.done:
			if old == nil || old.Started.Before(j.Started) {
				old = j
			}
		default:
			return j
		}
	}
	return old
}

// ByTag returns the running and remembered jobs by what they started: a job for
// each process in all that belongs to one.
func (t *Table) ByTag(all []Stat) map[int]*Job {
	tags := t.tags(all)
	t.mu.Lock()
	defer t.mu.Unlock()
	jobs := make(map[uint64]*Job, len(t.jobs))
	pids := make(map[int]*Job, len(t.jobs))
	for _, j := range t.jobs {
		jobs[j.tag] = j
		pids[j.PID()] = j
	}
	out := make(map[int]*Job)
	for _, s := range all {
		if tag, ok := tags[s.PID]; ok {
			if j := jobs[tag]; j != nil {
				out[s.PID] = j
			}
		} else if j := pids[s.PID]; j != nil && !t.tagging {
			out[s.PID] = j
		}
	}
	return out
}

// Counts returns the table's figures.
func (t *Table) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Counts{Total: t.total, Failed: t.failures, Active: len(t.jobs) - len(t.finishedQ)}
}

// tags returns the tags of this table that processes carry, by pid.
func (t *Table) tags(all []Stat) map[int]uint64 {
	tags := map[int]uint64{}
	if !t.tagging {
		return tags
	}
	for _, s := range all {
		if t.kin[s.PID] || s.zombie() {
			continue
		}
		if tag, ok := tagOf(s.PID); ok && tag&^0xffffffff == t.epoch {
			tags[s.PID] = tag
		}
	}
	return tags
}

// sure returns a test for processes that carry this very tag; with 0, for any
// tag of this table.
func (t *Table) sure(tag uint64) func(pid int) bool {
	return func(pid int) bool {
		if !t.tagging || t.kin[pid] {
			return false
		}
		got, ok := tagOf(pid)
		return ok && (got == tag || tag == 0 && got&^0xffffffff == t.epoch)
	}
}

// spared returns what a kill of the job with this tag must leave alone: the
// sandbox's own processes and those of other jobs.
func (t *Table) spared(tags map[int]uint64, tag uint64) func(Stat) bool {
	return func(s Stat) bool {
		other, ok := tags[s.PID]
		return t.kin[s.PID] || ok && other != tag
	}
}

var idDigits = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newID returns 16 random digits.
func newID() string {
	var b [10]byte
	rand.Read(b[:]) // never fails, since Go 1.24
	return idDigits.EncodeToString(b[:])
}
