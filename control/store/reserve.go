package store

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"syscall"

	hutch "github.com/hutch-sh/hutch"
)

// reserveSize is room for some thousand orders and facts.
const reserveSize = 4 << 20

// A reserve is disk space kept back so that sandboxes can still be ended, and
// their ends remembered, when the disk is full. What ends gives space back;
// what begins may not use the reserve.
type reserve struct {
	path string

	mu    sync.Mutex // one fill or spend at a time; held during its file operation
	spent bool
}

// fill makes the reserve if it is not there. A disk too full for it is no
// error here: the database may still be needed to end things.
func (r *reserve) fill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fillLocked()
}

func (r *reserve) fillLocked() error {
	if st, err := os.Stat(r.path); err == nil && st.Size() == reserveSize {
		r.spent = false
		return nil
	}
	// Written, not truncated to size: a hole reserves nothing.
	err := os.WriteFile(r.path, make([]byte, reserveSize), 0o600)
	r.spent = err != nil
	if err == nil {
		return nil
	}
	rerr := os.Remove(r.path)
	if errors.Is(err, syscall.ENOSPC) && (rerr == nil || errors.Is(rerr, fs.ErrNotExist)) {
		return nil
	}
	return errors.Join(err, rerr)
}

// spend frees the reserve and reports whether there was one.
func (r *reserve) spend() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spent = true
	return os.Remove(r.path) == nil
}

// whole refuses with Unavailable while the disk has no room for the reserve.
func (r *reserve) whole() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.spent {
		return nil
	}
	if err := r.fillLocked(); err != nil {
		return err
	}
	if r.spent {
		return &hutch.Error{Kind: hutch.Unavailable, Msg: diskFull}
	}
	return nil
}
