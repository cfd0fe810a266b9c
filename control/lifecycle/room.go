package lifecycle

import (
	"context"
	"sync"
	"time"

	"github.com/hutch-sh/hutch"
	"golang.org/x/sync/semaphore"
)

// A room admits creates: so many sandboxes alive, so many being made. Who waits
// is served in the order of coming.
type room struct {
	alive    *semaphore.Weighted
	starting *semaphore.Weighted

	mu      sync.Mutex
	inside  map[hutch.SandboxID]bool          // who holds a place among the living
	waiting map[hutch.SandboxID]chan struct{} // closed when its making has ended
}

func newRoom(alive, starting int) *room {
	return &room{
		alive:    semaphore.NewWeighted(int64(alive)),
		starting: semaphore.NewWeighted(int64(starting)),
		inside:   map[hutch.SandboxID]bool{},
		waiting:  map[hutch.SandboxID]chan struct{}{},
	}
}

// enter waits up to limit for a place for id and for a turn to be made. The
// caller calls started when the making has ended, and leave for a sandbox that
// is no more.
func (r *room) enter(ctx context.Context, id hutch.SandboxID, limit time.Duration) (started func(), err error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := r.alive.Acquire(wait, 1); err != nil {
		return nil, full(ctx, "This server runs as many sandboxes as it may: kill one, or raise --max-sandboxes")
	}
	if err := r.starting.Acquire(wait, 1); err != nil {
		r.alive.Release(1)
		return nil, full(ctx, "Too many sandboxes are being created at once: try again")
	}
	made := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inside[id] = true
	r.waiting[id] = made
	return func() {
		r.starting.Release(1)
		close(made)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiting, id)
	}, nil
}

func full(ctx context.Context, msg string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return &hutch.Error{Kind: hutch.Unavailable, Op: "lifecycle.Create", Msg: msg, Details: map[string]any{"retry_after_seconds": 5}}
}

// adopt gives a place to a sandbox of an earlier run, if there is one: it lives
// whether or not there is.
func (r *room) adopt(id hutch.SandboxID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.inside[id] && r.alive.TryAcquire(1) {
		r.inside[id] = true
	}
}

// leave gives a place back. It may be called for who has none.
func (r *room) leave(id hutch.SandboxID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inside[id] {
		delete(r.inside, id)
		r.alive.Release(1)
	}
}

// made returns a channel that is closed when id is not being made here.
func (r *room) made(id hutch.SandboxID) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.waiting[id]; c != nil {
		return c
	}
	c := make(chan struct{})
	close(c)
	return c
}
