package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// needRoot skips where namespaces cannot be made.
func needRoot(t *testing.T) {
	t.Helper()
	if err := runPrivate(t.Context(), io.Discard, "mount --make-rprivate / && mount -t tmpfs x /tmp", "probe"); err != nil {
		t.Skipf("namespaces and mounts are not allowed here: %v", err)
	}
}

// tinyRoot returns a directory with a shell and the programs enter.sh uses,
// taken from this machine with the libraries they are linked with.
func tinyRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "dev", "proc", "run", "tmp", "etc", "data"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	libs := regexp.MustCompile(`(/\S+) \(0x`)
	take := func(from, to string) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, to)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, to), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, prog := range []string{"sh", "mount", "umount", "mknod", "ln", "mkdir", "rmdir", "hostname", "cat", "ls", "touch", "id", "sleep"} {
		from, err := exec.LookPath(prog)
		if err != nil {
			t.Skipf("%s is not here: %v", prog, err)
		}
		take(from, "bin/"+prog)
		out, err := exec.Command("ldd", from).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", from, err)
		}
		for _, m := range libs.FindAllStringSubmatch(string(out), -1) {
			take(m[1], m[1])
		}
	}
	return root
}

// runIn is chroot.run with the text of a script.
func (c chroot) runText(ctx context.Context, out io.Writer, text string, args ...string) error {
	mode := "rw"
	if c.readOnly {
		mode = "ro"
	}
	argv := []string{c.root, mode}
	for _, b := range c.binds {
		argv = append(argv, b.host, b.inside)
	}
	argv = append(append(argv, "--", text, "test"), args...)
	return runPrivate(ctx, out, script("enter.sh"), "test", argv...)
}

func TestChroot(t *testing.T) {
	needRoot(t)
	root := tinyRoot(t)
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "given"), []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = chroot{root: root, readOnly: true, binds: []bind{{shared, "/data"}, {filepath.Join(shared, "given"), "/run/hutch/a/file"}}}.runText(t.Context(), &out, `
		echo "pid $$ host $(hostname)"
		echo "args $*"
		cat /data/given /run/hutch/a/file
		echo result > /data/made
		touch /bin/x 2>/dev/null && echo "the root can be written"
		echo > /dev/null
		[ -e /run/host ] && echo "the host is still there"
		[ -e /home ] && echo "a directory of the host is there"
		hostname changed
		for p in /proc/[0-9]*; do echo "process ${p#/proc/}"; done
		sleep 1000 & # left behind on purpose
	`, "one", "two words")
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	got := out.String()
	for _, want := range []string{"pid 1 host hutch-build\n", "args one two words\n", "from outside\nfrom outside\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	for _, no := range []string{"can be written", "is still there", "of the host"} {
		if strings.Contains(got, no) {
			t.Errorf("%q in\n%s", no, got)
		}
	}
	if n := strings.Count(got, "process "); n > 2 {
		t.Errorf("%d processes are visible", n)
	}
	if b, err := os.ReadFile(filepath.Join(shared, "made")); err != nil || string(b) != "result\n" {
		t.Errorf("%q %v", b, err)
	}
	if now, err := os.Hostname(); err != nil || now != host {
		t.Errorf("this machine is now called %q, was %q (%v)", now, host, err)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(after), root) != strings.Count(string(before), root) {
		t.Errorf("a mount was left:\n%s", after)
	}
	if ents, err := os.ReadDir(filepath.Join(root, "dev")); err != nil || len(ents) != 0 {
		t.Errorf("device nodes were left: %v %v", ents, err)
	}
}

func TestChrootFails(t *testing.T) {
	needRoot(t)
	root := tinyRoot(t)
	err := chroot{root: root}.runText(t.Context(), io.Discard, `echo "the reason" >&2; exit 7`)
	if err == nil || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("the error says nothing of the reason: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	err = chroot{root: root}.runText(ctx, io.Discard, `sleep 1000 & sleep 1000`)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("canceled: %v", err)
	}
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("it took %v to end", d)
	}
}

// TestKillNine kills the program that builds, and looks for what it had started.
func TestKillNine(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	mark := fmt.Sprintf("86%07d", os.Getpid()) // a number of seconds that nobody else sleeps
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HUTCH_IMAGE_HELPER=build", "HUTCH_IMAGE_DIR="+dir, "HUTCH_IMAGE_MARK="+mark)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("%q %v", line, err)
	}
	if len(marked(t, mark)) < 2 {
		t.Fatal("the build's processes are not seen: the test sees nothing")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it ended by itself")
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(marked(t, mark)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("still running: %v", marked(t, mark))
		}
		wait(t.Context(), 5*time.Millisecond)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir) {
		t.Error("a mount was left")
	}
	if _, err := os.Lstat(filepath.Join(dir, "inside")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was written inside is outside: %v", err)
	}
}

// marked returns the processes with mark as an argument, the helper itself aside.
func marked(t *testing.T, mark string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has just ended
		}
		for _, arg := range bytes.Split(b, []byte{0}) {
			if string(arg) == mark {
				out = append(out, f+" "+strings.ReplaceAll(string(b[:min(len(b), 60)]), "\x00", " "))
				break
			}
		}
	}
	return out
}
