package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// startIn starts cmd as a member of g from its first instruction: on v2 the
// kernel clones into the group, on v1 the thread that forks is a member for the
// moment of the fork. Until it has left, the group lists this very process.
func startIn(g group, cmd *exec.Cmd) error {
	children.mu.Lock()
	defer children.mu.Unlock()
	if err := forkIn(g, cmd); err != nil {
		return err
	}
	children.own[cmd.Process.Pid] = true
	return nil
}

// wait waits for a command of startIn.
func wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	children.mu.Lock()
	defer children.mu.Unlock()
	delete(children.own, cmd.Process.Pid)
	return err
}

// children tells the commands this process started, which their starters wait
// for, from the orphans that fall to it.
var children = struct {
	mu  sync.Mutex
	own map[int]bool
}{own: map[int]bool{}}

// reapOrphans collects the dead processes of sandboxes that nobody waits for: a
// sandbox that ends by itself leaves its helpers to us.
func reapOrphans() {
	children.mu.Lock() // no command may be started and not yet known meanwhile
	defer children.mu.Unlock()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return // the pattern is a constant
	}
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has just ended
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && !children.own[pid] && isDeadHelper(pid) {
				reap(pid)
			}
		}
	}
}

// isDeadHelper reports whether pid is a zombie of the runtime's making. Its
// cgroup does not tell: on v1 the kernel shows zombies in the root.
func isDeadHelper(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	name, rest, ok := strings.Cut(string(stat), ") ")
	if !ok || !strings.HasPrefix(rest, "Z") {
		return false
	}
	_, name, _ = strings.Cut(name, "(")
	return name == "exe" || strings.HasPrefix(name, "runsc")
}

func forkIn(g group, cmd *exec.Cmd) error {
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

// startFromThread forks from a thread that visits the group. A thread that
// cannot go back stays locked, so that it ends with its goroutine. The main
// thread cannot end, and the memory controller takes its place for that of the
// whole process: if that is where we are, it is held while another does it.
func startFromThread(g group, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		errc := make(chan error, 1)
		go func() { errc <- startFromThread(g, cmd) }()
		return <-errc
	}
	tid := []byte(strconv.Itoa(unix.Gettid()))
	var err error
	for c := range g.h.mounts {
		err = errors.Join(err, os.WriteFile(filepath.Join(g.dir(c), "tasks"), tid, 0))
	}
	if err == nil {
		err = cmd.Start()
	}
	for c, mount := range g.h.mounts {
		if e := os.WriteFile(filepath.Join(mount, g.h.home[c], "tasks"), tid, 0); e != nil {
			return errors.Join(err, e)
		}
	}
	runtime.UnlockOSThread()
	return err
}

// killAndWait kills processes of g, all before it waits for any, and returns
// when they have ended. Those that are orphans that fell to us are reaped too.
func killAndWait(ctx context.Context, g group, pids []int) error {
	var fds []int
	defer func() { closeAll(fds) }()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			fd = -1
		} else if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		fds = append(fds, fd)
	}
	// A number may have passed to a stranger before it was opened. Members are
	// asked for again: who is one now is who was opened.
	members, err := g.procs()
	if err != nil {
		return err
	}
	for i, fd := range fds {
		pid := pids[i]
		if fd < 0 || !slices.Contains(members, pid) {
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	for i, fd := range fds {
		if fd < 0 || !slices.Contains(members, pids[i]) {
			continue
		}
		if err := waitPidfd(ctx, fd); err != nil {
			return fmt.Errorf("killed processes do not end: %w", err)
		}
	}
	for _, pid := range pids {
		reap(pid)
	}
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
