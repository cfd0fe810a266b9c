package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/internal/handshake"
	"github.com/hutch-sh/hutch/internal/token"
)

const sandboxID = "sabcdefghijklmnopqrst"

// program is the built hutch-agent.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hutch-agent-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "hutch-agent")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir) // a temporary directory
	os.Exit(code)
}

// A box is an init with an agent, in namespaces and on a root of its own, so
// that it may name the machine and kill everybody.
type box struct {
	*testing.T
	cmd     *exec.Cmd
	stdout  *os.File // our end of init's standard output
	stderr  *bytes.Buffer
	exited  chan error
	url     string
	client  *http.Client
	hostKey ed25519.PrivateKey
	token   string
	id      handshake.Identity
}

func newKey(t *testing.T) (ed25519.PrivateKey, ed25519.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, pub
}

// freePort returns a port nobody listens on at the moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// setup makes a root out of the machine's own that can be written to freely and
// becomes init there.
const setup = `
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mkdir -p "$1/root/.hutch"
mount --bind "$2" "$1/root/.hutch"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
root="$1/root"
shift 2
exec chroot "$root" /.hutch/hutch-agent init "$@"
`

// newBox makes the keys and the pipe of a box whose init is yet to be started.
func newBox(t *testing.T) (b *box, stdout *os.File, initArgs []string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	b = &box{T: t, client: &http.Client{Transport: &http.Transport{}}, stderr: &bytes.Buffer{}, exited: make(chan error, 1)}
	var hostPub ed25519.PublicKey
	b.hostKey, hostPub = newKey(t)
	tokenKey, tokenPub := newKey(t)
	var err error
	if b.token, err = token.Mint(tokenKey, sandboxID, 1, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	b.id = handshake.Identity{
		SandboxID: sandboxID, TokenKey: tokenPub, Hostname: "box", Env: map[string]string{"CREATION": "c"},
		Base: map[string]string{"PATH": os.Getenv("PATH")},
		DNS:  []string{"10.9.8.7"}, UnixNano: time.Now().UnixNano(), MemoryMB: 1024, Seed: []byte("seed"),
	}
	listen := "127.0.0.1:" + strconv.Itoa(freePort(t))
	b.url = "http://" + listen
	if b.stdout, stdout, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	return b, stdout, []string{"--host-key", base64.RawURLEncoding.EncodeToString(hostPub), "--listen", listen}
}

// start starts init in namespaces of this machine and waits until it says that
// the agent listens.
func start(t *testing.T) *box {
	t.Helper()
	b, w, args := newBox(t)
	b.cmd = exec.Command("/bin/sh", append([]string{"-c", setup, "sh", t.TempDir(), filepath.Dir(program)}, args...)...)
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	b.launch(w)
	return b
}

// launch starts cmd, which writes to stdout, and waits for the ready line.
func (b *box) launch(stdout *os.File) {
	t := b.T
	t.Helper()
	b.cmd.Stdout, b.cmd.Stderr = stdout, b.stderr
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdout.Close()
	go func() { b.exited <- b.cmd.Wait() }()
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		_ = b.cmd.Process.Kill() // the whole namespace goes with it; it may have ended
		select {
		case <-b.exited:
		case <-time.After(10 * time.Second):
			t.Error("init does not end")
		}
		b.stdout.Close()
		if t.Failed() {
			t.Logf("stderr: %s", b.stderr)
		}
	})
	if err := b.stdout.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(handshake.ReadyLine))
	if _, err := io.ReadFull(b.stdout, got); err != nil || string(got) != handshake.ReadyLine {
		t.Fatalf("ready line %q, %v; stderr: %s", got, err, b.stderr)
	}
	if err := b.stdout.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func (b *box) do(method, path string, v any) (int, []byte, error) {
	var body []byte
	if v != nil {
		var err error
		if body, err = json.Marshal(v); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, b.url+path, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+b.token)
	if strings.HasPrefix(path, handshake.Prefix) {
		req.Header.Set("Authorization", handshake.Sign(b.hostKey, path, body))
	}
	res, err := b.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	return res.StatusCode, out, err
}

func (b *box) must(method, path string, v, into any) {
	b.Helper()
	status, out, err := b.do(method, path, v)
	if err != nil || status != 200 {
		b.Fatalf("%s %s: %d %s %v", method, path, status, out, err)
	}
	if into != nil {
		if err := json.Unmarshal(out, into); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *box) bash(script string) api.CommandResponse {
	b.Helper()
	var out api.CommandResponse
	b.must("POST", "/commands/run", map[string]any{"command": "bash", "args": []string{"-c", script}, "timeout": 20}, &out)
	return out
}

// agentPID returns the agent's pid as this machine sees it, or 0.
func (b *box) agentPID() int {
	b.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	parent := strconv.Itoa(b.cmd.Process.Pid)
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) < 2 || f[1] != parent || f[0] == "Z" {
			continue
		}
		line, err := os.ReadFile(filepath.Dir(path) + "/cmdline")
		if err == nil && strings.Contains(string(line), "\x00serve\x00") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				b.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

// killAgent kills the agent that is there and returns its pid.
func (b *box) killAgent() int {
	b.Helper()
	pid := b.agentPID()
	if pid <= 1 { // these mean more than one process to kill
		b.Fatal("no agent")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	return pid
}

// eventually waits for what nothing announces and returns how long it took.
func (b *box) eventually(what string, cond func() bool) time.Duration {
	b.Helper()
	start := time.Now()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatalf("not in 15 s: %s; stderr: %s", what, b.stderr)
		}
	}
	return time.Since(start)
}

func TestSize(t *testing.T) {
	fi, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", fi.Size())
	if fi.Size() > 9<<20 {
		t.Errorf("the agent has grown to %d bytes: every sandbox starts it twice", fi.Size())
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"x"}, {"init"}, {"serve", "--host-key", "short"}, {"init", "--nope"}, {"serve", "--host-key", base64.RawURLEncoding.EncodeToString(make([]byte, 32)), "extra"}} {
		err := exec.Command(program, args...).Run()
		var e *exec.ExitError
		if !errors.As(err, &e) || e.ExitCode() != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestInit(t *testing.T) {
	b := start(t)
	if status, _, err := b.do("GET", "/health", nil); status != 503 || err != nil {
		t.Errorf("before the identity: %d %v", status, err)
	}
	var first api.IdentityResponse
	b.must("POST", handshake.IdentityPath, b.id, &first)
	if len(first.Warnings) > 0 {
		t.Errorf("warnings %v", first.Warnings)
	}
	t.Logf("identity took %.1f ms", first.TookMS)
	r := b.bash(`hostname; cat /etc/hostname; grep nameserver /etc/resolv.conf; wc -c </etc/machine-id; pwd; echo $CREATION $HUTCH_SANDBOX_ID; ls -A /proc/self/fd | tr '\n' ' '`)
	if want := "box\nbox\nnameserver 10.9.8.7\n33\n/workspace\nc " + sandboxID + "\n0 1 2 3 "; r.Stdout != want {
		t.Errorf("%q", r.Stdout)
	}

	// The host may have closed the pipe long ago; nobody may be hurt by that.
	b.stdout.Close()

	b.must("PATCH", "/env", map[string]any{"env_vars": map[string]any{"SET": "later"}}, nil)
	b.bash("setsid sleep 300 >/dev/null 2>&1 &")
	for i := range 3 {
		pid := b.killAgent()
		b.eventually("the old agent is gone", func() bool { now := b.agentPID(); return now != pid && now != 0 })
		took := b.eventually("another agent answers", func() bool { status, _, err := b.do("GET", "/health", nil); return err == nil && status == 200 })
		t.Logf("death %d: another agent after %v", i+1, took)
		if took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		if r := b.bash("echo $SET $CREATION; pgrep -c sleep"); r.Stdout != "later c\n1\n" {
			t.Errorf("after death %d: %q %q", i+1, r.Stdout, r.Stderr)
		}
	}
	// What an earlier agent started, a later one ends for the host.
	var ended api.ShutdownResponse
	b.must("POST", handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID, GraceMS: 5000}, &ended)
	if ended.Ended != 1 {
		t.Errorf("%+v", ended)
	}
	if r := b.bash("pgrep -c sleep"); r.Stdout != "0\n" {
		t.Errorf("%q", r.Stdout)
	}
}

func TestReadyLineOnce(t *testing.T) {
	b := start(t)
	b.must("POST", handshake.IdentityPath, b.id, nil)
	pid := b.killAgent()
	b.eventually("another agent answers", func() bool {
		status, _, err := b.do("GET", "/health", nil)
		return err == nil && status == 200 && b.agentPID() != pid
	})
	b.bash("echo noise; echo noise >&2")
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(b.stdout)
	if err != nil || len(rest) != 0 {
		t.Errorf("after the ready line: %q, %v", rest, err)
	}
}

func TestInitReapsAndSurvives(t *testing.T) {
	b := start(t)
	b.must("POST", handshake.IdentityPath, b.id, nil)
	r := b.bash(`for i in $(seq 200); do (setsid sh -c 'exit 3' & ) ; done; for s in HUP INT QUIT KILL USR1 USR2 PIPE STOP; do [ $s = INT ] || kill -$s 1; done; echo fine`)
	if r.ExitCode != 0 || r.Stdout != "fine\n" {
		t.Errorf("%+v", r)
	}
	b.eventually("no zombies", func() bool {
		var list api.ProcessList
		b.must("GET", "/processes", nil, &list)
		for _, p := range list.Processes {
			if p.State == "Z" {
				return false
			}
		}
		return true
	})
	// A kill answers when nothing is left, not even a zombie.
	var job api.BackgroundResponse
	b.must("POST", "/commands/background", map[string]any{"command": "bash", "args": []string{"-c", "for i in 1 2 3; do (setsid sleep 300 &); done; sleep 300"}}, &job)
	b.eventually("four sleep", func() bool { return b.bash("pgrep -c sleep").Stdout == "4\n" })
	began := time.Now()
	var k api.KillResponse
	b.must("POST", "/execute/kill/"+job.ProcessID, nil, &k)
	if took := time.Since(began); k.Ended != 4 || took > 10*time.Second {
		t.Errorf("%+v after %v", k, took)
	}
	if r := b.bash("pgrep -c sleep; ps -eo stat | grep -c ^Z"); r.Stdout != "0\n0\n" {
		t.Errorf("%q", r.Stdout)
	}
	for _, id := range []string{"1", strconv.Itoa(b.bashPPID())} {
		if status, out, err := b.do("POST", "/execute/kill/"+id, nil); err != nil || status != 400 {
			t.Errorf("kill %s: %d %s %v", id, status, out, err)
		}
	}
}

// bashPPID returns the agent's pid as the box sees it.
func (b *box) bashPPID() int {
	pid, err := strconv.Atoi(strings.TrimSpace(b.bash("echo $PPID").Stdout))
	if err != nil {
		b.Fatal(err)
	}
	return pid
}

func TestInitGivesUp(t *testing.T) {
	b := start(t)
	began := time.Now()
	last := 0
	for n := 1; ; n++ {
		var pid int
		var died bool
		b.eventually("an agent or the end", func() bool {
			select {
			case err := <-b.exited:
				died = true
				b.exited <- err
				return true
			default:
			}
			pid = b.agentPID()
			return pid != 0 && pid != last
		})
		if died {
			if n != 7 {
				t.Errorf("gave up after %d deaths", n-1)
			}
			break
		}
		if n > 6 {
			t.Fatalf("death %d and still an agent", n-1)
		}
		last = b.killAgent()
	}
	if code := b.cmd.ProcessState.ExitCode(); code == 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
	if !strings.Contains(b.stderr.String(), "giving up") {
		t.Errorf("stderr %q", b.stderr)
	}
}

func TestInitTerminates(t *testing.T) {
	b := start(t)
	b.must("POST", handshake.IdentityPath, b.id, nil)
	var job api.BackgroundResponse
	b.must("POST", "/commands/background", map[string]any{"command": "bash", "args": []string{"-c", "trap '' TERM; while :; do sleep 1; done"}}, &job)
	began := time.Now()
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := <-b.exited
	b.exited <- err
	if err != nil || time.Since(began) > 8*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}
