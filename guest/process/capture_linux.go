package process

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// readSize is how much is read from a pipe at once, in bytes.
const readSize = 32 << 10

var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// A budget is the memory all captures may hold together, in bytes. Without it a
// hundred programs that flood their output would end the sandbox.
type budget struct{ left atomic.Int64 }

// take reserves n bytes if that many are left.
func (b *budget) take(n int) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

func (b *budget) give(n int) { b.left.Add(int64(n)) }

// A keep says which part of a stream that is too long is kept.
type keep uint8

const (
	keepHead keep = iota // the beginning: answers
	keepTail             // the end: logs of jobs
	keepNone             // nothing more: the answer is out
)

// A capture reads one output stream of a process until its last writer is
// gone, and never stops reading: a writer must neither block nor get SIGPIPE
// because somebody had enough.
type capture struct {
	file   *os.File
	limit  int
	budget *budget
	done   chan struct{} // closed when the last writer is gone
	more   chan struct{} // has an element when something was read since it was last taken
	seen   atomic.Int64  // bytes read so far

	reading sync.Mutex // held from taking bytes out of the pipe until they are counted; never while waiting

	mu      sync.Mutex
	keep    keep
	buf     []byte
	charged int  // bytes taken from the budget for buf
	dropped bool // something was not kept
}

// newCapture makes a pipe. The descriptor returned is the writing end, the
// caller's to hand on and to close.
func newCapture(k keep, limit int, b *budget) (*capture, int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, err
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
		return nil, -1, err
	}
	return &capture{
		file: os.NewFile(uintptr(p[0]), "output"), keep: k, limit: limit, budget: b,
		done: make(chan struct{}), more: make(chan struct{}, 1),
	}, p[1], nil
}

// read reads to the end of the stream. A buffer is borrowed only while there
// is something to read, so that an idle stream costs none.
func (c *capture) read() {
	defer close(c.done)
	defer c.file.Close()
	conn, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n int
		var rerr error
		err := conn.Read(func(fd uintptr) bool {
			b := readBuffers.Get().(*[readSize]byte)
			defer readBuffers.Put(b)
			c.reading.Lock()
			defer c.reading.Unlock()
			for {
				n, rerr = syscall.Read(int(fd), b[:])
				if rerr != syscall.EINTR {
					break
				}
			}
			if rerr == syscall.EAGAIN {
				return false
			}
			if n > 0 {
				c.add(b[:n])
			}
			return true
		})
		if err != nil || rerr != nil || n <= 0 { // closed, broken, or the end
			return
		}
	}
}

// add keeps what may be kept of b.
func (c *capture) add(b []byte) {
	c.seen.Add(int64(len(b)))
	select {
	case c.more <- struct{}{}:
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.keep {
	case keepNone:
		return
	case keepHead:
		room := c.limit - len(c.buf)
		if len(b) > room {
			b = b[:room]
			c.dropped = true
		}
		if len(b) > 0 && !c.charge(len(b)) {
			c.dropped = true
			return
		}
	case keepTail:
		if len(c.buf)+len(b) > 2*c.limit {
			cut := max(0, len(c.buf)-c.limit)
			c.buf = append(c.buf[:0], c.buf[cut:]...)
			c.budget.give(cut)
			c.charged -= cut
			c.dropped = true
		}
		if !c.charge(len(b)) {
			c.dropped = true
			return
		}
	}
	c.buf = append(c.buf, b...)
}

func (c *capture) charge(n int) bool {
	if !c.budget.take(n) {
		return false
	}
	c.charged += n
	return true
}

// output returns what was kept, and whether something was not.
func (c *capture) output() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.buf; c.keep == keepTail && len(b) > c.limit {
		return string(b[len(b)-c.limit:]), true
	}
	return string(c.buf), c.dropped
}

// written returns how many bytes have been written to the stream up to now,
// those included that are still in the pipe.
func (c *capture) written() int64 {
	c.reading.Lock()
	defer c.reading.Unlock()
	waiting := 0
	if conn, err := c.file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { // fails when the stream has ended, and then nothing waits
			if n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ); err == nil {
				waiting = n
			}
		})
	}
	return c.seen.Load() + int64(waiting)
}

// caughtUp returns when n bytes have been read, or the stream has ended.
func (c *capture) caughtUp(n int64) {
	for c.seen.Load() < n {
		select {
		case <-c.more:
		case <-c.done:
			return
		}
	}
}

// close keeps nothing more; reading goes on.
func (c *capture) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep = keepNone
	c.buf = nil
}

// refund gives back what the budget was charged. The captured output must not
// be in use any more.
func (c *capture) refund() {
	c.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget.give(c.charged)
	c.charged = 0
}

// ended reports whether the last writer is gone.
func (c *capture) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// stop ends reading although writers are left.
func (c *capture) stop() error {
	if err := c.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// note adds a line of the agent's own, within no limit.
func note(s *string, line string) {
	if *s != "" && (*s)[len(*s)-1] != '\n' {
		*s += "\n"
	}
	*s += line + "\n"
}

// nullInput returns a stream that is at its end: /dev/null, or, in an image
// without it, a pipe nobody writes to.
func nullInput() (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err == nil {
		return f, nil
	}
	r, w, perr := os.Pipe()
	if perr != nil {
		return nil, errors.Join(err, perr)
	}
	w.Close()
	return r, nil
}
