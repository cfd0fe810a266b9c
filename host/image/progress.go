package image

import (
	"sync"
	"time"
)

// Progress tells how far a Prepare or Pull has come. It is sent from one
// goroutine at a time, and the work waits for the receiver to return.
type Progress struct {
	Template string // what is being prepared
	Step     string // what is being done, for people
	Done     int    // steps finished
	Total    int    // steps in all
	Bytes    int64  // bytes moved so far in this step
	OfBytes  int64  // bytes to move in this step; 0: unknown
}

// A reporter passes progress on, from one goroutine at a time, and not more
// often than anyone could read.
type reporter struct {
	to func(Progress)

	mu   sync.Mutex
	now  Progress
	last time.Time
}

func newReporter(to func(Progress), template string, total int) *reporter {
	if to == nil {
		to = func(Progress) {}
	}
	return &reporter{to: to, now: Progress{Template: template, Total: total}}
}

// begin says that step has begun.
func (r *reporter) begin(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Step, r.now.Bytes, r.now.OfBytes = step, 0, 0
	r.to(r.now)
}

// done says that a step has ended.
func (r *reporter) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Done++
	r.to(r.now)
}

// moved counts bytes.
func (r *reporter) moved(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Bytes += n
	if now := time.Now(); now.Sub(r.last) >= 200*time.Millisecond {
		r.last = now
		r.to(r.now)
	}
}
