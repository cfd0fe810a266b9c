package gvisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
	"github.com/hutch-sh/hutch/host/driver/drivertest"
	"golang.org/x/sys/unix"
)

// lab is what all tests here share: programs that are built once.
type lab struct {
	runsc  string // the runtime
	agent  string // directory with the guest program
	rootfs string // an image with /etc/removed in it
	netns  string
}

var shared lab

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hutch-driver-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	shared = lab{
		runsc:  filepath.Join(dir, "runsc"),
		agent:  filepath.Join(dir, "agent"),
		rootfs: filepath.Join(dir, "root.erofs"),
		netns:  filepath.Join(dir, "netns"),
	}
	build := func(out, pkg string) {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("%s: %v\n%s", pkg, err, said))
		}
	}
	build(shared.runsc, "github.com/hutch-sh/hutch/cmd/runsc")
	build(filepath.Join(shared.agent, "guest"), "./testdata/guest")
	if err := writeTestRoot(shared.rootfs); err != nil {
		panic(err)
	}
	if os.Geteuid() == 0 {
		undo, err := emptyNetNS(shared.netns)
		if err != nil {
			panic(err)
		}
		defer undo()
	}
	return m.Run()
}

// emptyNetNS makes a namespace with nothing in it and binds it to path.
func emptyNetNS(path string) (undo func(), err error) {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	errc := make(chan error, 1)
	go func() {
		// The thread ends with the goroutine: it is in the new namespace.
		lockThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errc <- err
			return
		}
		errc <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	if err := <-errc; err != nil {
		return nil, err
	}
	return func() { _ = unix.Unmount(path, unix.MNT_DETACH) }, nil
}

func newDriver(t *testing.T, tag string) *Driver {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIP: sandboxes need root")
	}
	d, err := New(Config{Runsc: shared.runsc, Tag: tag})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func randomTag() string { return fmt.Sprintf("t%03d", rand.IntN(1000)) }

func bundle(t *testing.T, id hutch.SandboxID, args ...string) driver.Bundle {
	return driver.Bundle{
		ID: id, Hostname: string(id), Rootfs: shared.rootfs, Scratch: t.TempDir(), Agent: shared.agent,
		Args: append([]string{driver.AgentMount + "/guest"}, args...), Ready: "ready\n", NetNS: shared.netns,
		Resources: hutch.Resources{VCPU: 1, MemoryMB: 128, DiskMB: 64},
	}
}

func left(d *Driver, id hutch.SandboxID) []string {
	var what []string
	g := d.cgroups.group(string(id))
	if pids, err := g.procs(); err != nil || len(pids) > 0 {
		what = append(what, fmt.Sprintf("processes %v, %v", pids, err))
	}
	if g.exists() {
		what = append(what, "cgroup "+g.path())
	}
	if _, err := os.Lstat(filepath.Join(d.run, string(id))); !errors.Is(err, os.ErrNotExist) {
		what = append(what, "runtime directory")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), string(id)) {
		what = append(what, "mounts")
	}
	return append(append(what, processesNaming(string(id))...), zombies()...)
}

// zombies finds dead processes of sandboxes that nobody has waited for.
func zombies() []string {
	var what []string
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, l := range lists {
		data, _ := os.ReadFile(l)
		for f := range strings.FieldsSeq(string(data)) {
			if stat, err := os.ReadFile("/proc/" + f + "/stat"); err == nil && strings.Contains(string(stat), ") Z ") {
				what = append(what, "zombie "+string(stat[:min(len(stat), 40)]))
			}
		}
	}
	return what
}

// processesNaming finds processes by their command line, cgroup or not.
func processesNaming(id string) []string {
	var what []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(data), id) {
			what = append(what, f+": "+strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return what
}

func TestDriver(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Subject {
		tag := randomTag()
		d := newDriver(t, tag)
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(d.run); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left", d.run)
			}
		})
		return drivertest.Subject{
			Driver: d,
			Bundle: func(t *testing.T, id hutch.SandboxID) driver.Bundle { return bundle(t, id) },
			Left:   func(_ *testing.T, id hutch.SandboxID) []string { return left(d, id) },
			End: func(t *testing.T, id hutch.SandboxID) {
				if err := unix.Kill(d.cell(id).pid(), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
			Reopen: func(t *testing.T) driver.Driver {
				again := newDriver(t, tag)
				t.Cleanup(func() { _ = again.watcher.close() })
				return again
			},
		}
	})
}

// made is a driver of its own and one cell, both gone when the test ends.
func made(t *testing.T, args ...string) (*Driver, *cell) {
	t.Helper()
	d := newDriver(t, randomTag())
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	id := hutch.NewSandboxID()
	c, err := d.Create(t.Context(), bundle(t, id, args...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustDestroy(t, d, c.(*cell)) })
	return d, c.(*cell)
}

func mustDestroy(t *testing.T, d *Driver, c *cell) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Destroy(ctx); err != nil {
		t.Error(err)
	}
	for _, w := range left(d, c.id) {
		t.Error("left:", w)
	}
}

func TestLimitsAreInForce(t *testing.T) {
	d, c := made(t)
	lim := limitsFor(hutch.Resources{VCPU: 1, MemoryMB: 128}, d.cfg.Pids)
	if err := c.group.verify(lim, c.pid()); err != nil {
		t.Error(err)
	}
	lim.memory++
	if err := c.group.verify(lim, c.pid()); err == nil {
		t.Error("another limit passes the check")
	}
	if err := c.group.verify(limitsFor(hutch.Resources{VCPU: 1, MemoryMB: 128}, d.cfg.Pids), os.Getpid()); err == nil {
		t.Error("a process outside the group passes the check")
	}
}

// Every process of a cell, whatever its kind, is in the group.
func TestEveryProcessIsInTheGroup(t *testing.T) {
	_, c := made(t)
	in := map[string]bool{}
	pids, err := c.group.procs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		in[fmt.Sprintf("/proc/%d/cmdline", p)] = true
	}
	for _, w := range processesNaming(string(c.id)) {
		if file, _, _ := strings.Cut(w, ":"); !in[file] {
			t.Error("outside the group:", w)
		}
	}
}

func TestGuestThatDoesNotStart(t *testing.T) {
	d := newDriver(t, randomTag())
	defer func() { _ = d.Close() }()
	id := hutch.NewSandboxID()
	_, err := d.Create(t.Context(), bundle(t, id, "exit"))
	if err == nil || !strings.Contains(err.Error(), "something went wrong inside") {
		t.Errorf("Create = %v; want what the guest said", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := d.Create(ctx, bundle(t, hutch.NewSandboxID(), "mute")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Create of a mute guest = %v; want a deadline", err)
	}
	for _, w := range left(d, id) {
		t.Error("left:", w)
	}
}

func TestGuestThatEnds(t *testing.T) {
	_, c := made(t, "end")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if x, err := c.Wait(ctx); err != nil || x.OOM {
		t.Errorf("Wait = %v, %v", x, err)
	}
}

func TestOutOfMemory(t *testing.T) {
	_, c := made(t, "hog")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if x, err := c.Wait(ctx); err != nil || !x.OOM {
		t.Errorf("Wait = %+v, %v; want OOM", x, err)
	}
}

func TestDeathOfTheFileServerIsSeen(t *testing.T) {
	_, c := made(t)
	vital, err := c.vital()
	if err != nil || len(vital) != 2 {
		t.Fatal(vital, err)
	}
	if err := unix.Kill(vital[1], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := c.Wait(ctx); err != nil {
		t.Error(err)
	}
}

// Processes that resist: a fork bomb, a spinner, a sentry that is stopped, and
// one that a freezer holds.
func TestDestroyWhatResists(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, c *cell){
		"bomb": nil,
		"spin": nil,
		"stopped": func(t *testing.T, c *cell) {
			if err := unix.Kill(c.pid(), unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		},
		"frozen": func(t *testing.T, c *cell) {
			file, value := c.group.dir("freezer")+"/freezer.state", "FROZEN"
			if c.group.h.v2 {
				file, value = c.group.dir("")+"/cgroup.freeze", "1"
			}
			if err := os.WriteFile(file, []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			mode := name
			if prepare != nil {
				mode = "sleep"
			}
			d, c := made(t, mode)
			if prepare != nil {
				prepare(t, c)
			}
			began := time.Now()
			mustDestroy(t, d, c)
			t.Logf("destroyed in %v", time.Since(began))
		})
	}
}

func TestDiskIsLimited(t *testing.T) {
	made(t, "fill") // is ready only if the limit held
}

func TestDiskIsKept(t *testing.T) {
	d, c := made(t, "write")
	upper := filepath.Join(t.TempDir(), "upper.tar")
	if err := c.Export(t.Context(), upper); err != nil {
		t.Fatal(err)
	}
	mustDestroy(t, d, c)
	b := bundle(t, hutch.NewSandboxID(), "write")
	b.Upper, b.Ready = upper, "found 1000 false\nready\n"
	again, err := d.Create(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	mustDestroy(t, d, again.(*cell))
}

// kill -9 of runsc itself at a random moment of a start: runsc's own clean-up
// is known to leak there, ours must not.
func TestKillOfRunscLeavesNothing(t *testing.T) {
	d := newDriver(t, randomTag())
	defer func() { _ = d.Close() }()
	for range 40 {
		id := hutch.NewSandboxID()
		done := make(chan struct{})
		go func() {
			defer close(done)
			killRunsc(d, id, time.Duration(rand.Int64N(int64(90*time.Millisecond))))
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		began := time.Now()
		c, err := d.Create(ctx, bundle(t, id))
		cancel()
		<-done
		t.Logf("%v: %v", time.Since(began), err)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("a start whose process was killed was not noticed")
		}
		if err == nil {
			mustDestroy(t, d, c.(*cell))
		}
		for _, w := range left(d, id) {
			t.Error("left:", w)
		}
	}
}

// killRunsc kills whatever runs in the cell's group after a while.
func killRunsc(d *Driver, id hutch.SandboxID, after time.Duration) {
	<-time.After(after)
	pids, err := d.cgroups.group(string(id)).procs()
	if err != nil || len(pids) == 0 {
		return
	}
	if pid := pids[rand.IntN(len(pids))]; pid != os.Getpid() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
