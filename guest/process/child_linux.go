package process

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A child is a process of ours that has not been waited for yet.
type child struct {
	pid   int
	pidfd *os.File // nil where the kernel gives none
	conn  syscall.RawConn
}

// newChild takes over pid and pidfd.
func newChild(pid, pidfd int) *child {
	c := &child{pid: pid}
	if pidfd < 0 {
		return c
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd) // wait blocks a thread instead
		return c
	}
	c.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	c.conn, _ = c.pidfd.SyscallConn() // fails for a nil file only
	return c
}

// wait returns how the child ended and releases it. When deadline passes first
// it returns [os.ErrDeadlineExceeded] and may be called again. It parks the
// goroutine, not a thread: threads count against the limit on processes.
func (c *child) wait(deadline time.Time) (ws unix.WaitStatus, ru unix.Rusage, err error) {
	if c.pidfd == nil || c.pidfd.SetReadDeadline(deadline) != nil {
		return c.waitBlocking()
	}
	var werr error
	err = c.conn.Read(func(uintptr) bool {
		var pid int
		pid, werr = wait4(c.pid, &ws, unix.WNOHANG, &ru)
		return pid != 0 || werr != nil
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ws, ru, os.ErrDeadlineExceeded
	case err != nil: // not pollable here
		return c.waitBlocking()
	}
	c.release()
	return ws, ru, werr
}

// waitBlocking waits on a thread of its own.
func (c *child) waitBlocking() (ws unix.WaitStatus, ru unix.Rusage, err error) {
	_, err = wait4(c.pid, &ws, 0, &ru)
	c.release()
	return ws, ru, err
}

func (c *child) release() {
	if c.pidfd != nil {
		c.pidfd.Close()
	}
}

func wait4(pid int, ws *unix.WaitStatus, options int, ru *unix.Rusage) (int, error) {
	for {
		got, err := unix.Wait4(pid, ws, options, ru)
		if err != unix.EINTR {
			return got, err
		}
	}
}

// exitCode is the shell's number for how a process ended: never 0 for one that
// a signal ended.
func exitCode(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
