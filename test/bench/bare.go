package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch/internal/handshake"
	"github.com/hutch-sh/hutch/internal/token"
	"github.com/hutch-sh/hutch/test/e2e/caller"
	"golang.org/x/sys/unix"
)

// A floor runs the same image and the same agent in a container runtime with
// nothing of Hutch around it, with the same limits and in a namespace of its
// own: what the product is measured against.
type floor struct {
	system  string // as in the report
	program string // runsc or runc
	flags   func(c *container) []string
	spec    func(c *container) map[string]any
	prepare func(c *container) error // before the clock starts: what the product has prepared too
	release func(c *container) error // after the clock stopped

	image template
	agent string // directory of the agent's program
	dir   string // of all containers
	key   ed25519.PrivateKey
	made  int
}

// A container is one run of a floor.
type container struct {
	*caller.Sandbox
	floor *floor
	id    string
	dir   string
	net   *link
}

// readyLimit bounds the start of a container.
const readyLimit = 30 * time.Second

// make starts a container and returns when its agent has taken its identity,
// which is when Hutch's create answers. On error nothing is left.
func (f *floor) make(ctx context.Context) (cell, time.Duration, error) {
	f.made++
	id := fmt.Sprintf("hb%d-%c%d", os.Getpid(), f.system[0], f.made)
	c := &container{floor: f, id: id, dir: filepath.Join(f.dir, id)}
	if err := os.MkdirAll(filepath.Join(c.dir, "scratch"), 0o700); err != nil {
		return nil, 0, err
	}
	err := f.prepare(c)
	var took time.Duration
	if err == nil {
		begin := time.Now()
		err = c.start(ctx)
		took = time.Since(begin)
	}
	if err != nil {
		return nil, took, errors.Join(err, c.clear(context.WithoutCancel(ctx)))
	}
	return c, took, nil
}

func (c *container) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	var err error
	if c.net, err = newLink(c.id, c.floor.made, c.dir); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	spec, err := json.Marshal(c.floor.spec(c))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), spec, 0o600); err != nil {
		return err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := c.command("run", "--detach", "--bundle", c.dir, c.id)
	cmd.Stdout, cmd.Stderr = in, in
	err = cmd.Start()
	in.Close()
	if err != nil {
		return err
	}
	// The agent's init holds the other end for as long as it lives, so the
	// line itself is what to wait for.
	stop := context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Now()) })
	defer stop()
	said, ready := waitFor(out, strings.TrimSpace(handshake.ReadyLine))
	if err := errors.Join(ctx.Err(), cmd.Wait()); err != nil || !ready {
		return fmt.Errorf("%s: %w: %s", c.floor.program, err, said)
	}
	return c.greet(ctx)
}

// waitFor reads lines until one is want, and returns all of them.
func waitFor(r io.Reader, want string) (said string, ok bool) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if lines.Text() == want {
			return said, true
		}
		said += lines.Text() + "\n"
	}
	return said, false
}

// greet gives the agent its identity and makes the token that it then takes.
func (c *container) greet(ctx context.Context) error {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	tok, err := token.Mint(key, c.id, 1, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	c.Sandbox = &caller.Sandbox{
		Caller: caller.Caller{HTTP: caller.Fresh}, ID: c.id, Token: tok,
		Host: "http://" + netip.AddrPortFrom(c.net.guest, 7777).String(),
	}
	body, err := json.Marshal(handshake.Identity{
		SandboxID: c.id, TokenKey: pub, Hostname: c.id, UnixNano: time.Now().UnixNano(),
		VCPU: c.floor.image.Default.VCPU, MemoryMB: c.floor.image.Default.MemoryMB, DiskMB: c.floor.image.Default.DiskMB,
		Seed: make([]byte, 32),
	})
	if err != nil {
		return err
	}
	who := caller.Caller{URL: c.Host, HTTP: caller.Fresh}
	a, err := who.Do(ctx, http.MethodPost, handshake.IdentityPath, body,
		"Authorization", handshake.Sign(c.floor.key, handshake.IdentityPath, body))
	if err == nil && a.Status != http.StatusOK {
		err = errors.New(a.String())
	}
	return err
}

func (c *container) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.floor.program, append(c.floor.flags(c), args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// kill ends the container as its runtime does, returns when none of its
// processes is left, and then gives back its network.
func (c *container) kill(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	err := errors.Join(c.end(ctx), c.net.remove())
	took := time.Since(begin)
	c.net = nil
	return took, errors.Join(err, c.clear(ctx))
}

// end is the runtime's own delete, and the proof of it.
func (c *container) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := c.command("delete", "--force", c.id)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s delete: %w: %s", c.floor.program, err, out)
	}
	for {
		left, err := tasks(c.id)
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes left: %v", left)
		case <-time.After(time.Millisecond): // nothing announces an empty group
		}
	}
}

// clear removes whatever is left of a container, started or not.
func (c *container) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	var errs []error
	if c.net != nil {
		errs = append(errs, c.reap(ctx), c.net.remove())
		c.net = nil
	}
	errs = append(errs, c.floor.release(c), removeGroups(c.id), os.RemoveAll(c.dir))
	return errors.Join(errs...)
}

// reap kills what a failed start or delete left in the container's groups.
func (c *container) reap(ctx context.Context) error {
	_ = c.command("delete", "--force", c.id).Run() // it may not exist
	for {
		left, err := tasks(c.id)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes left: %v", left)
		case <-time.After(10 * time.Millisecond): // nothing announces an empty group
		}
	}
}

// group is the cgroup of a container, below every hierarchy's root.
func group(id string) string { return "/hutch-bench/" + id }

func groupDirs(id string) ([]string, error) {
	v1, err := filepath.Glob("/sys/fs/cgroup/*" + group(id))
	if err != nil {
		return nil, err
	}
	v2, err := filepath.Glob("/sys/fs/cgroup" + group(id))
	return append(v1, v2...), err
}

func tasks(id string) ([]int, error) {
	dirs, err := groupDirs(id)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			var pid int
			if _, err := fmt.Sscan(line, &pid); err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func removeGroups(id string) error {
	dirs, err := groupDirs(id)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, ignore(unix.Rmdir(dir), unix.ENOENT))
	}
	return errors.Join(errs...)
}

func ignore(err, this error) error {
	if errors.Is(err, this) {
		return nil
	}
	return err
}

// close removes what the floor's containers share.
func (f *floor) close() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/hutch-bench")
	if err != nil {
		return err
	}
	// runsc keeps an empty namespace beside its state, for its file servers.
	spare := filepath.Join(f.dir, "state", "null-netns")
	errs := []error{ignore(ignore(unix.Unmount(spare, unix.MNT_DETACH), unix.EINVAL), unix.ENOENT), os.RemoveAll(f.dir)}
	for _, dir := range append(roots, "/sys/fs/cgroup/hutch-bench") {
		errs = append(errs, ignore(ignore(ignore(unix.Rmdir(dir), unix.ENOENT), unix.EBUSY), unix.ENOTEMPTY))
	}
	return errors.Join(errs...)
}

// init is the first process of every container.
func (f *floor) init() []string {
	pub, ok := f.key.Public().(ed25519.PublicKey)
	if !ok {
		return nil
	}
	return []string{"/.hutch/hutch-agent", "init", "--host-key", base64.RawURLEncoding.EncodeToString(pub)}
}
