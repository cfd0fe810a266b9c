package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
	"golang.org/x/sys/unix"
)

// cell implements [driver.Cell], [driver.Pauser] and [driver.Exporter].
//
// Below its directory lie "runsc" (runsc's own state and socket), "bundle" (the
// specification), "runtime" (the path of the runsc it was started with) and
// "pid" (of the sentry, written by runsc). All of it is on a
// file system that does not outlive the machine, like the processes themselves.
type cell struct {
	driver *Driver
	id     hutch.SandboxID
	dir    string
	group  group

	dead chan struct{} // closed when the sentry or its file server has ended
	exit driver.Exit   // valid once dead is closed

	mu      sync.Mutex
	scratch string // what runsc was started with; needed by later commands
	diskMB  int
}

var (
	_ driver.Cell     = (*cell)(nil)
	_ driver.Pauser   = (*cell)(nil)
	_ driver.Exporter = (*cell)(nil)
)

func (c *cell) root() string      { return filepath.Join(c.dir, "runsc") }
func (c *cell) bundle() string    { return filepath.Join(c.dir, "bundle") }
func (c *cell) emptyRoot() string { return filepath.Join(c.dir, "bundle", "root") }
func (c *cell) pidFile() string   { return filepath.Join(c.dir, "pid") }

func (c *cell) runtimeFile() string { return filepath.Join(c.dir, "runtime") }

// runtime is the runsc the cell was started with: after an upgrade of ours a
// living cell is still spoken to by its own.
func (c *cell) runtime() string {
	if path, err := os.ReadFile(c.runtimeFile()); err == nil {
		return string(path)
	}
	return c.driver.cfg.Runsc
}

// start makes the cell. On error the caller destroys what was made.
func (c *cell) start(ctx context.Context, b driver.Bundle) error {
	lim := limitsFor(b.Resources, c.driver.cfg.Pids)
	if err := os.MkdirAll(c.root(), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(c.emptyRoot(), 0o700); err != nil {
		return err
	}
	if err := c.group.create(lim); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := os.WriteFile(c.runtimeFile(), []byte(c.driver.cfg.Runsc), 0o600); err != nil {
		return err
	}
	if err := writeSpec(filepath.Join(c.bundle(), "config.json"), c.driver.specFor(c, b)); err != nil {
		return err
	}
	c.scratch, c.diskMB = b.Scratch, b.Resources.DiskMB
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	args := append(c.driver.flags(c, b.Scratch, b.Resources.DiskMB),
		"run", "--detach", "--bundle="+c.bundle(), "--pid-file="+c.pidFile(), string(c.id))
	// Not CommandContext: what ends it is the death of the whole cgroup.
	cmd := exec.Command(c.runtime(), args...)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + c.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = startIn(c.group, cmd)
	w.Close()
	if err != nil {
		return fmt.Errorf("start runsc: %w", err)
	}
	// If ctx ends or runsc fails, killing the group ends all that could still
	// write to the pipe, and with it the read below.
	over := make(chan struct{})
	end := func() { c.killUntil(over) }
	unhook := context.AfterFunc(ctx, end)
	waited := make(chan error, 1)
	go func() {
		err := wait(cmd)
		if err != nil {
			end()
		}
		waited <- err
	}()
	said, ready := readUntil(out, b.Ready)
	close(over)
	err = <-waited
	if !unhook() {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("runsc: %w: %s", err, firstLines(said))
	}
	if !ready {
		return fmt.Errorf("the first process ended before it was ready: %s", firstLines(said))
	}
	return c.confirm(lim)
}

// killUntil kills the group, trying until that succeeds or nobody waits for it.
func (c *cell) killUntil(over <-chan struct{}) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		err := c.group.kill(ctx)
		cancel()
		if err == nil {
			return
		}
		select {
		case <-over:
			return
		case <-time.After(wait):
		}
	}
}

// confirm checks that the sentry lives in its group and under its limits, and
// begins to watch it.
func (c *cell) confirm(lim limits) error {
	pid, err := c.sentry()
	if err != nil {
		return err
	}
	if err := c.group.verify(lim, pid); err != nil {
		return fmt.Errorf("limits are not in force: %w", err)
	}
	return c.attach()
}

// attach begins to watch the cell's processes, once. A cell without any is dead.
func (c *cell) attach() error {
	pids, err := c.vital()
	if err != nil {
		return err
	}
	var fds []int
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			closeAll(fds)
			fds = nil
			break
		}
		fds = append(fds, fd)
	}
	ended := func() {
		c.exit = driver.Exit{OOM: c.group.oom()}
		close(c.dead)
	}
	if len(fds) == 0 {
		ended()
		return nil
	}
	return c.driver.watcher.add(fds, ended)
}

// vital returns the processes whose death is the cell's: the sentry and its
// file server. It is empty unless both are there.
func (c *cell) vital() ([]int, error) {
	all, err := c.group.procs()
	if err != nil {
		return nil, err
	}
	var sentry, gofer int
	for _, pid := range all {
		cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err != nil {
			continue // it has just ended
		}
		switch arg0, _, _ := bytes.Cut(cmdline, []byte{0}); string(arg0) {
		case "runsc-gofer":
			gofer = pid
		case "runsc-sandbox":
			if sentry == 0 || pid == c.pid() {
				sentry = pid
			}
		}
	}
	if sentry == 0 || gofer == 0 {
		return nil, nil
	}
	return []int{sentry, gofer}, nil
}

func (c *cell) sentry() (int, error) {
	if pid := c.pid(); pid > 0 {
		return pid, nil
	}
	return 0, errors.New("runsc wrote no process id")
}

func (c *cell) pid() int {
	data, err := os.ReadFile(c.pidFile())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}

// Destroy implements [driver.Cell].
func (c *cell) Destroy(ctx context.Context) error {
	if err := c.group.kill(ctx); err != nil {
		return fmt.Errorf("processes: %w", err)
	}
	reapOrphans()
	if err := c.group.remove(ctx); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("runtime files: %w", err)
	}
	return nil
}

// Wait implements [driver.Cell].
func (c *cell) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-c.dead:
		return c.exit, nil
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
}

// Pause implements [driver.Pauser]. The sentry stops its tasks itself: a
// process that a freezer holds would not die of a kill.
func (c *cell) Pause(ctx context.Context) error {
	return c.settle(ctx, "pause", "paused")
}

// Resume implements [driver.Pauser].
func (c *cell) Resume(ctx context.Context) error {
	return c.settle(ctx, "resume", "running")
}

// settle runs a runsc verb whose result is a status; being there already is
// success.
func (c *cell) settle(ctx context.Context, verb, status string) error {
	err := c.runsc(ctx, verb, string(c.id))
	if err == nil {
		return nil
	}
	if is, e := c.status(); e == nil && is == status {
		return nil
	}
	return fault("gvisor."+verb, "sandbox did not "+verb, err)
}

// status reads what runsc last wrote about the cell.
func (c *cell) status() (string, error) {
	files, err := filepath.Glob(filepath.Join(c.root(), "*.state"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("%d state files: %w", len(files), errors.Join(err, fs.ErrNotExist))
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return "", err
	}
	var state struct{ Status string }
	if err := json.Unmarshal(data, &state); err != nil {
		return "", err
	}
	return strings.ToLower(state.Status), nil
}

// Export implements [driver.Exporter]: the file at path is whole or absent.
func (c *cell) Export(ctx context.Context, path string) error {
	tmp := path + ".tmp"
	err := c.runsc(ctx, "tar", "rootfs-upper", "--file="+tmp, string(c.id))
	if err == nil {
		err = commit(tmp, path)
	}
	if err != nil {
		return fault("gvisor.Export", "what was written could not be saved", errors.Join(err, removeIfThere(tmp)))
	}
	return nil
}

// commit makes tmp durable under its final name.
func commit(tmp, path string) error {
	f, err := os.Open(tmp)
	if err != nil {
		return err
	}
	err = errors.Join(f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// runsc runs one command on the cell, as a member of its cgroup. It ends with
// ctx, and with the cell.
func (c *cell) runsc(ctx context.Context, args ...string) error {
	c.mu.Lock()
	scratch, disk := c.scratch, c.diskMB
	c.mu.Unlock()
	if scratch == "" {
		scratch, disk = c.dir, 1 // adopted: commands on a running cell do not read these
	}
	cmd := exec.Command(c.runtime(), append(c.driver.flags(c, scratch, disk), args...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + c.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := startIn(c.group, cmd); err != nil {
		return err
	}
	unhook := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err := wait(cmd)
	unhook()
	if err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("runsc %s: %w: %s", args[0], err, firstLines(said.Bytes())))
	}
	return nil
}

// readUntil reads r until it has said ready, or ended. It returns the last of
// what was said, and keeps no more than that whatever a guest writes.
func readUntil(r io.Reader, ready string) (said []byte, ok bool) {
	const keep = 4096
	buf := make([]byte, 1024)
	for {
		n, err := r.Read(buf)
		said = append(said, buf[:n]...)
		if bytes.Contains(said, []byte(ready)) {
			return said, true
		}
		if len(said) > keep {
			said = append(said[:0], said[len(said)-keep:]...)
		}
		if err != nil {
			return said, false
		}
	}
}
