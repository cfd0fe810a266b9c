package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// startIn starts cmd as a member of g from its first instruction: on v2 the
// kernel clones into the group, on v1 the thread that forks joins it for the
// moment of the fork.
func startIn(g group, cmd *exec.Cmd) error {
	if g.h.v2 {
		dir, err := os.Open(g.dir(""))
		if err != nil {
			return err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
		return cmd.Start()
	}
	errc := make(chan error, 1)
	go func() { errc <- startFromThread(g, cmd) }()
	return <-errc
}

// startFromThread spends the thread it runs on: that sits in the wrong cgroups
// afterwards, and so it stays locked and ends with the goroutine. The main
// thread cannot end and would count as the whole process being in the group;
// if that is where we are, it is held while another does it.
func startFromThread(g group, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		errc := make(chan error, 1)
		go func() { errc <- startFromThread(g, cmd) }()
		return <-errc
	}
	tid := []byte(strconv.Itoa(unix.Gettid()))
	for c := range g.h.mounts {
		if err := os.WriteFile(filepath.Join(g.dir(c), "tasks"), tid, 0); err != nil {
			return err
		}
	}
	return cmd.Start()
}

// killAndWait kills one process and returns when it has ended. If it is an
// orphan that fell to us, it is reaped too.
func killAndWait(ctx context.Context, pid int) error {
	if pid == os.Getpid() {
		return errors.New("this process is in a sandbox's cgroup: refusing to kill itself")
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		reap(pid)
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	if err := waitPidfd(ctx, fd); err != nil {
		return fmt.Errorf("process %d does not end: %w", pid, err)
	}
	reap(pid)
	return nil
}

// waitPidfd returns when the process behind fd has ended, or with ctx's error.
func waitPidfd(ctx context.Context, fd int) error {
	for {
		timeout := 50 // ms: how often ctx is looked at
		if dl, ok := ctx.Deadline(); ok {
			timeout = max(0, min(timeout, int(time.Until(dl).Milliseconds())+1))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0:
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// reap collects a dead process if it is our child; it is not an error if not.
func reap(pid int) {
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
}
