package ledger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A leak is one thing that a test leaves behind on purpose.
type leak struct {
	class Class
	what  string // part of its name in the ledger
	make  func(t *testing.T, mark string) (undo func() error)
}

// TestSeesEveryLeak makes one thing of each class and wants it seen, named, and
// gone from the count when it is gone.
func TestSeesEveryLeak(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: making namespaces, cgroups and devices needs root")
	}
	mark := fmt.Sprintf("hledger%d", os.Getpid())
	dir := t.TempDir()
	var listed []string
	s := Scope{
		Marks: []string{mark}, Links: []string{"hl" + fmt.Sprint(os.Getpid()%100000)}, Dirs: []string{dir},
		ListAll: func(context.Context) ([]string, error) { return listed, nil },
	}
	run := func(name string, args ...string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
				t.Fatalf("%s %v: %v: %s", name, args, err, out)
			}
		}
	}
	leaks := []leak{
		{Processes, mark, func(t *testing.T, mark string) func() error {
			cmd := exec.Command("sleep", "300")
			cmd.Args[0] = mark
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return func() error { return errors.Join(cmd.Process.Kill(), ended(cmd)) }
		}},
		{Cgroups, mark, func(t *testing.T, mark string) func() error {
			path := filepath.Join(cgroupRoot(t), mark)
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			return func() error { return unix.Rmdir(path) }
		}},
		{Namespaces, mark, func(t *testing.T, mark string) func() error {
			path := filepath.Join(dir, mark+".netns")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			namespace(t, path)
			return func() error { return errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)) }
		}},
		{Links, s.Links[0], func(t *testing.T, _ string) func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = s.Links[0] + "-1"
			v := &netlink.Veth{LinkAttrs: attrs, PeerName: s.Links[0] + "-2"}
			if err := netlink.LinkAdd(v); err != nil {
				t.Fatal(err)
			}
			return func() error { return netlink.LinkDel(v) }
		}},
		{Addresses, "198.19.255.1", func(t *testing.T, _ string) func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = s.Links[0] + "-3"
			v := &netlink.Veth{LinkAttrs: attrs, PeerName: s.Links[0] + "-4"}
			if err := netlink.LinkAdd(v); err != nil {
				t.Fatal(err)
			}
			a := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 19, 255, 1).To4(), Mask: net.CIDRMask(32, 32)}}
			if err := netlink.AddrAdd(v, a); err != nil {
				t.Error(err)
			}
			return func() error { return netlink.LinkDel(v) }
		}},
		{Rules, "element", func(t *testing.T, mark string) func() error {
			if _, err := exec.LookPath("nft"); err != nil {
				t.Skip("SKIP: the nft command is not installed")
			}
			run("nft", "add table inet "+mark+"; add set inet "+mark+" s { type ipv4_addr; elements = { 198.19.255.2 }; }")(t)
			return func() error { return exec.Command("nft", "delete", "table", "inet", mark).Run() }
		}},
		{Mounts, mark, func(t *testing.T, mark string) func() error {
			path := filepath.Join(dir, mark)
			if err := errors.Join(os.Mkdir(path, 0o700), unix.Mount("tmpfs", path, "tmpfs", 0, "size=64k")); err != nil {
				t.Fatal(err)
			}
			return func() error { return errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path)) }
		}},
		{Files, "left.txt", func(t *testing.T, _ string) func() error {
			path := filepath.Join(dir, "left.txt")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return func() error { return os.Remove(path) }
		}},
		{Sockets, mark, func(t *testing.T, mark string) func() error {
			l, err := net.Listen("unix", filepath.Join(dir, mark+".sock"))
			if err != nil {
				t.Fatal(err)
			}
			return l.Close
		}},
		{Rows, "a-row", func(*testing.T, string) func() error {
			listed = []string{"a-row"}
			return func() error { listed = nil; return nil }
		}},
	}
	base := take(t, s)
	if left := base.Left(base); len(left) != 0 {
		t.Fatalf("a snapshot differs from itself: %v", left)
	}
	for _, l := range leaks {
		t.Run(string(l.class), func(t *testing.T) {
			undo := l.make(t, mark)
			undone := false
			defer func() {
				if !undone {
					if err := undo(); err != nil {
						t.Error(err)
					}
				}
			}()
			found := base.Left(take(t, s), l.class)
			seen := false
			for _, c := range found {
				seen = seen || strings.Contains(c.What, l.what)
			}
			if !seen {
				t.Errorf("not seen: %s among %v", l.what, found)
			}
			undone = true
			if err := undo(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			left, err := s.Settle(ctx, base)
			if err != nil || len(left) != 0 {
				t.Errorf("after it is gone: %v %v", left, err)
			}
		})
	}
}

// TestServer counts what a server process holds: this one.
func TestServer(t *testing.T) {
	s := Scope{Server: os.Getpid()}
	base := take(t, s)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	now := take(t, s)
	want := Change{Sockets, "tcp " + l.Addr().String(), 1}
	found := false
	for _, c := range base.Left(now) {
		found = found || c == want
	}
	if !found {
		t.Errorf("no %v in %v", want, base.Left(now))
	}
	if more := now.Count(FDs) - base.Count(FDs); more < 1 {
		t.Errorf("an open socket adds %d descriptors", more)
	}
	if now.Usage.RSS <= 0 || now.Usage.FDs <= 0 || now.Usage.Threads <= 0 {
		t.Errorf("%+v", now.Usage)
	}
	if _, ok := now.Skipped[Goroutines]; !ok {
		t.Error("goroutines were counted without a profile")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, s Scope) Snapshot {
	t.Helper()
	snap, err := s.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func ended(cmd *exec.Cmd) error {
	var killed *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &killed) {
		return err
	}
	return nil
}

// cgroupRoot is a hierarchy of this machine.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		for _, file := range []string{"tasks", "cgroup.procs"} {
			if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
				return dir
			}
		}
	}
	t.Skip("SKIP: no cgroups are mounted")
	return ""
}

// namespace makes a network namespace that lives on at path. Its thread is
// spent, which must not be the main one: that never ends, and would move what
// /proc says of the whole process.
func namespace(t *testing.T, path string) {
	t.Helper()
	errc := make(chan error, 1)
	var enter func()
	enter = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			done := make(chan struct{})
			go func() { defer close(done); enter() }()
			<-done
			return
		}
		errc <- errors.Join(unix.Unshare(unix.CLONE_NEWNET), unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""))
	}
	go enter()
	if err := <-errc; err != nil {
		t.Fatal(err)
	}
}
