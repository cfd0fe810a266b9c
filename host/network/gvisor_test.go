package network

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// binaries are built once: the probe and, unless HUTCH_RUNSC names one, runsc.
var binaries = sync.OnceValues(func() (struct{ probe, runsc string }, error) {
	var b struct{ probe, runsc string }
	dir, err := os.MkdirTemp("", "hutchnet-bin")
	if err != nil {
		return b, err
	}
	theLab.closers = append(theLab.closers, func() { os.RemoveAll(dir) })
	build := func(name, pkg string) (string, error) {
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w: %s", pkg, err, said)
		}
		return out, nil
	}
	if b.probe, err = build("probe", "./testdata/probe"); err != nil {
		return b, err
	}
	if b.runsc = os.Getenv("HUTCH_RUNSC"); b.runsc == "" {
		b.runsc, err = build("runsc", "github.com/hutch-sh/hutch/cmd/runsc")
	}
	return b, err
})

// A gvisorGuest is a sandbox in which a program takes questions over TCP. That
// it can be asked at all shows that the host reaches guests.
type gvisorGuest struct {
	t    testing.TB
	addr string
	main net.Conn // keeps what is held
	in   *bufio.Reader
}

// A sandbox of runsc, with what is needed to end it.
type sandbox struct {
	t     testing.TB
	runsc string
	flags []string
	state string
	id    string
}

func (s *sandbox) run(args ...string) *exec.Cmd {
	return exec.Command(s.runsc, append(append([]string{}, s.flags...), args...)...)
}

// startSandbox runs the probe in a new sandbox in the link's namespace.
func startSandbox(t testing.TB, l Link) *sandbox {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir := tmp(t)
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(bin.probe, filepath.Join(root, "probe")); err != nil {
		b, err := os.ReadFile(bin.probe)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "probe"), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ns := func(kind string) map[string]any { return map[string]any{"type": kind} }
	// CAP_NET_RAW is more than sandboxes get; here it lets the probe send ICMP.
	caps := []string{"CAP_NET_BIND_SERVICE", "CAP_NET_RAW"}
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"root":       map[string]any{"path": root, "readonly": true},
		"process": map[string]any{
			"args": []string{"/probe"}, "cwd": "/", "user": map[string]any{"uid": 0, "gid": 0}, "noNewPrivileges": true,
			"capabilities": map[string]any{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"linux": map[string]any{"namespaces": []map[string]any{
			ns("pid"), ns("ipc"), ns("uts"), ns("mount"), {"type": "network", "path": l.NetNS},
		}},
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	s := &sandbox{t: t, runsc: bin.runsc, id: "probe-" + base(l.NetNS), state: filepath.Join(dir, "state"), flags: []string{
		"--root=" + filepath.Join(dir, "state"), "--platform=systrap", "--network=sandbox", "--ignore-cgroups",
		"--host-uds=none", "--host-fifo=none", "--net-raw=true", "--allow-packet-socket-write=false",
	}}
	// The sandbox keeps the pipes, so they are files.
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := s.run("run", "--detach", "--bundle="+dir, s.id)
	cmd.Stdout, cmd.Stderr = out, out
	t.Cleanup(s.end)
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		t.Fatalf("runsc run: %v: %s", err, said)
	}
	return s
}

func (s *sandbox) end() {
	var said bytes.Buffer
	cmd := s.run("delete", "--force", s.id)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		s.t.Errorf("runsc delete: %v: %s", err, said.String())
	}
	// It mounts an empty namespace for all its sandboxes and leaves it there.
	empty := filepath.Join(s.state, "null-netns")
	if err := unix.Unmount(empty, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		s.t.Errorf("unmount %s: %v", empty, err)
	}
}

func newGvisorGuest(t testing.TB, l Link) *gvisorGuest {
	t.Helper()
	startSandbox(t, l)
	g := &gvisorGuest{t: t, addr: l.Guest.String() + ":7777"}
	eventually(t, "the sandbox listens", func() bool {
		c, err := net.DialTimeout("tcp", g.addr, time.Second)
		if err != nil {
			return false
		}
		g.main, g.in = c, bufio.NewReader(c)
		return true
	})
	t.Cleanup(func() { g.main.Close() })
	return g
}

// ask uses a connection of its own, so that questions can be asked side by side.
func (g *gvisorGuest) ask(format string, args ...any) (string, error) {
	c, err := net.DialTimeout("tcp", g.addr, soon)
	if err != nil {
		g.t.Errorf("the sandbox cannot be asked: %v", err)
		return "", err
	}
	defer c.Close()
	return question(c, bufio.NewReader(c), format, args...)
}

func question(c net.Conn, in *bufio.Reader, format string, args ...any) (string, error) {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(c, format+"\n", args...); err != nil {
		return "", err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if word != "ok" {
		return "", errors.New(rest)
	}
	return rest, nil
}

func (g *gvisorGuest) tcp(addr string, wait time.Duration) (string, error) {
	return g.ask("tcp %s %d", addr, wait.Milliseconds())
}

func (g *gvisorGuest) udp(addr string, wait time.Duration) (string, error) {
	return g.ask("udp %s %d probe", addr, wait.Milliseconds())
}

func (g *gvisorGuest) ping(ip string, wait time.Duration) (string, error) {
	return g.ask("ping %s %d", ip, wait.Milliseconds())
}

func (g *gvisorGuest) hold(addr string) error {
	_, err := question(g.main, g.in, "hold %s", addr)
	return err
}

func (g *gvisorGuest) say(words string) (string, error) {
	return question(g.main, g.in, "say %s", words)
}
