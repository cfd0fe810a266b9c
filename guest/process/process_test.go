package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testEnv = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "LANG=C.UTF-8"}

func newTable(t *testing.T, cfg Config) *Table {
	t.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	tb, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tb.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return tb
}

func command(argv ...string) Command {
	return Command{Argv: argv, Dir: "/", Env: testEnv, Timeout: time.Minute, Label: Label{Prefix: "cmd"}}
}

func bash(script string) Command { return command("/bin/bash", "-c", script) }

// run runs cmd to its end.
func run(t *testing.T, tb *Table, cmd Command) Result {
	t.Helper()
	j, err := tb.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	r := j.Wait(t.Context())
	j.Release()
	return r
}

// eventually waits for cond, which nothing announces.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

// pidIn waits for a file that holds a pid.
func pidIn(t *testing.T, path string) int {
	t.Helper()
	var pid int
	eventually(t, "a pid in "+path, func() bool {
		b, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil && strings.HasSuffix(string(b), "\n")
	})
	return pid
}

func alive(pid int) bool {
	s, ok := stat(pid)
	return ok && !s.zombie()
}

func TestOutcomes(t *testing.T) {
	tb := newTable(t, Config{})
	dir := t.TempDir()
	write := func(name, body string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(body), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	noShebang := write("noshebang", "echo plain $1\n", 0o755)
	noExec := write("noexec", "echo no\n", 0o644)
	badInterp := write("badinterp", "#!/no/such/interpreter\n", 0o755)
	inDir := command("./local", "x")
	write("local", "#!/bin/sh\necho local $1 $PWD\n", 0o755)
	inDir.Dir = dir
	shellLine := command("echo a; exit 3")
	shellLine.Shell = true
	missing := command("no-such-program-at-all")
	missing.Missing = "install it"
	gone := command("true")
	gone.Dir = filepath.Join(dir, "gone")
	ownPath := command("tool")
	write("tool", "#!/bin/sh\necho mine\n", 0o755)
	ownPath.Env = []string{"PATH=" + dir}
	withFirst := bash("echo second")
	withFirst.First = []string{"/bin/bash", "-c", "echo first >&2"}
	failFirst := bash("echo second")
	failFirst.First = []string{"/bin/bash", "-c", "echo broken >&2; exit 2"}
	nul := command("echo", "a\x00b")

	for _, tt := range []struct {
		name   string
		cmd    Command
		code   int
		stdout string
		stderr string // contained
		status Status
	}{
		{"true", command("true"), 0, "", "", Completed},
		{"false", command("false"), 1, "", "", Failed},
		{"both streams", bash("echo out; echo err >&2"), 0, "out\n", "err\n", Completed},
		{"code", bash("exit 42"), 42, "", "", Failed},
		{"signal", bash("kill -9 $$"), 137, "", "", Failed},
		{"term", bash("kill -TERM $$"), 143, "", "", Failed},
		{"stdin is at its end", command("cat"), 0, "", "", Completed},
		{"not found", missing, ExitNotFound, "", "command not found\ninstall it", Failed},
		{"path not found", command("/no/such"), ExitNotFound, "", "command not found", Failed},
		{"empty", command(""), ExitNotFound, "", "not found", Failed},
		{"not executable", command(noExec), ExitNotRun, "", "permission denied", Failed},
		{"directory", command(dir), ExitNotRun, "", "permission denied", Failed},
		{"no first line", command(noShebang, "arg"), 0, "plain arg\n", "", Completed},
		{"bad interpreter", command(badInterp), ExitNotFound, "", "interpreter", Failed},
		{"relative", inDir, 0, "local x " + dir + "\n", "", Completed},
		{"its own PATH", ownPath, 0, "mine\n", "", Completed},
		{"shell line", shellLine, 3, "a\n", "", Failed},
		{"no shell line unasked", command("echo a; exit 3"), ExitNotFound, "", "not found", Failed},
		{"no such directory", gone, ExitNotRun, "", "working directory", Failed},
		{"too long", command("echo", strings.Repeat("x", 200<<10)), ExitNotRun, "", "too long", Failed},
		{"NUL", nul, ExitNotRun, "", "NUL", Failed},
		{"two steps", withFirst, 0, "second\n", "first\n", Completed},
		{"first step fails", failFirst, 2, "", "broken\n", Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, tb, tt.cmd)
			if r.ExitCode != tt.code || r.Stdout != tt.stdout || !strings.Contains(r.Stderr, tt.stderr) || r.Status != tt.status {
				t.Errorf("got code %d, status %d, stdout %q, stderr %q", r.ExitCode, r.Status, r.Stdout, r.Stderr)
			}
			if r.TimedOut || r.Truncated {
				t.Errorf("timed out %v, truncated %v", r.TimedOut, r.Truncated)
			}
		})
	}
	if n := tb.Counts(); n.Active != 0 || n.Total == 0 || n.Failed == 0 {
		t.Errorf("counts %+v", n)
	}
	if left := tb.budget.left.Load(); left != tb.cfg.Budget {
		t.Errorf("budget left %d of %d", left, tb.cfg.Budget)
	}
}

func TestChildSurroundings(t *testing.T) {
	tb := newTable(t, Config{})
	r := run(t, tb, bash(`ls /proc/self/fd | wc -l; ps -o pgid=,sid= -p $$ | tr -s ' '; echo $$; grep -E 'SigIgn|SigBlk' /proc/self/status; ulimit -m`))
	f := strings.Fields(r.Stdout)
	if len(f) < 5 {
		t.Fatalf("output %q, %q", r.Stdout, r.Stderr)
	}
	if f[1] != f[3] || f[2] != f[3] {
		t.Errorf("not the leader of a session: %v", f[1:4])
	}
	if strings.Contains(r.Stdout, "SigBlk") && !strings.Contains(r.Stdout, "SigBlk:\t0000000000000000") {
		t.Errorf("signals are blocked: %q", r.Stdout)
	}
	// The test itself may have been given descriptors that it passes on; compare
	// with what the standard library's child has.
	b, err := exec.Command("/bin/bash", "-c", "ls /proc/self/fd | wc -l").Output()
	if err != nil || f[0] != strings.TrimSpace(string(b)) {
		t.Errorf("%s descriptors, and not %q (%v)", f[0], b, err)
	}
}

// TestDescriptorOrder gives a child descriptors that lie where others go.
func TestDescriptorOrder(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s, free, err := newSpawn("/bin/sh", []string{"sh", "-c", "echo to-stdout; echo to-stderr >&2"}, testEnv, "/", int(null.Fd()), int(w.Fd()), int(w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	pid, pidfd, _, err := s.run()
	free()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	var got string
	for {
		n, err := r.Read(b)
		got += string(b[:n])
		if err != nil {
			break
		}
	}
	ws, _, err := newChild(pid, pidfd).wait(time.Now().Add(time.Minute))
	if err != nil || ws.ExitStatus() != 0 || got != "to-stdout\nto-stderr\n" {
		t.Errorf("%q, %v, %v", got, ws, err)
	}
}

func TestOutputFlood(t *testing.T) {
	tb := newTable(t, Config{Limit: 1 << 20})
	r := run(t, tb, bash(`head -c 20000000 /dev/zero | tr '\0' x; echo end >&2; head -c 3000000 /dev/zero >&2; exit 5`))
	if r.ExitCode != 5 || len(r.Stdout) != 1<<20 || len(r.Stderr) != 1<<20 || !r.Truncated {
		t.Errorf("code %d, %d and %d bytes, truncated %v", r.ExitCode, len(r.Stdout), len(r.Stderr), r.Truncated)
	}
}

func TestOutputBudget(t *testing.T) {
	tb := newTable(t, Config{Limit: 8 << 20, Budget: 10 << 20})
	var wg sync.WaitGroup
	var mu sync.Mutex
	total, cut := 0, 0
	var jobs []*Job
	for range 8 {
		wg.Go(func() {
			j, err := tb.Start(bash("head -c 8000000 /dev/zero"))
			if err != nil {
				t.Error(err)
				return
			}
			r := j.Wait(context.Background())
			mu.Lock()
			defer mu.Unlock()
			jobs = append(jobs, j)
			total += len(r.Stdout)
			if r.Truncated {
				cut++
			}
			if r.ExitCode != 0 {
				t.Errorf("code %d: the writer noticed", r.ExitCode)
			}
		})
	}
	wg.Wait()
	if total > 10<<20 || cut < 6 {
		t.Errorf("%d bytes held, %d truncated", total, cut)
	}
	for _, j := range jobs {
		j.Release()
		j.Release() // again does no harm
	}
	if left := tb.budget.left.Load(); left != 10<<20 {
		t.Errorf("budget left %d", left)
	}
}

// TestOutputOfTheDead ends a process whose output nobody has read yet, while
// another one keeps the pipe open: all of it must be in the answer.
func TestOutputOfTheDead(t *testing.T) {
	var b budget
	b.left.Store(1 << 30)
	c, w, err := newCapture(keepHead, 1<<20, &b)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := newCapture(keepHead, 1<<20, &b)
	if err != nil {
		t.Fatal(err)
	}
	close(other.done)
	want := strings.Repeat("x", 60000)
	if n, err := unix.Write(w, []byte(want)); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	j := &Job{out: c, err: other}
	settled := make(chan struct{})
	go func() { j.settleOutput(); close(settled) }()
	select {
	case <-settled:
		t.Fatal("settled with the output unread")
	case <-time.After(10 * quiet):
	}
	go c.read()
	<-settled // although w is still open
	if got, cut := c.output(); got != want || cut {
		t.Errorf("%d bytes of %d", len(got), len(want))
	}
	if err := unix.Close(w); err != nil {
		t.Fatal(err)
	}
	<-c.done
	if n := c.written(); n != int64(len(want)) {
		t.Errorf("%d written in the end", n)
	}
	if err := other.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestBackgroundWriter leaves a child behind that holds the pipes: the answer
// must not wait for it, nor must it get SIGPIPE or block later.
func TestBackgroundWriter(t *testing.T) {
	tb := newTable(t, Config{})
	pidfile := filepath.Join(t.TempDir(), "pid")
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	r := run(t, tb, bash(`(read x <`+gate+`; head -c 1000000 /dev/zero; echo $? >`+pidfile+`) & echo started`))
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("waited %v for the background child", took)
	}
	if r.Stdout != "started\n" || r.ExitCode != 0 {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if code := pidIn(t, pidfile); code != 0 {
		t.Errorf("the background writer ended with %d", code)
	}
}

func TestTimeoutKillsTree(t *testing.T) {
	tb := newTable(t, Config{})
	dir := t.TempDir()
	cmd := bash(`setsid sleep 300 & echo $! >` + dir + `/a; trap '' TERM; echo before; sleep 300`)
	cmd.Timeout = 300 * time.Millisecond
	start := time.Now()
	r := run(t, tb, cmd)
	if r.ExitCode != ExitTimeout || !r.TimedOut || r.Status != Killed || r.Stdout != "before\n" || !strings.Contains(r.Stderr, "timed out after 300ms") {
		t.Errorf("%+v", r)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if pid := pidIn(t, dir+"/a"); alive(pid) {
		t.Errorf("%d lives", pid)
	}
}

// escape starts a process that hides from a kill in every way at once: a new
// session, a parent that is gone, an empty environment.
const escape = `
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/")
with open(sys.argv[1] + ".tmp", "w") as f: f.write("%d\n" % os.getpid())
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
if len(sys.argv) > 2: os.setuid(65534)
os.execve("/bin/sleep", ["sleep", "300"], {})
`

func TestKill(t *testing.T) {
	tb := newTable(t, Config{})
	if !tb.tagging {
		t.Fatal("no tags on this machine")
	}
	byProcessID := func(j *Job) string { return j.ID }
	for _, tt := range []struct {
		name   string
		script string // $1: where to write the pid of what must die
		id     func(*Job) string
		ends   bool // the job's own process ends before the kill
	}{
		{"child", `sleep 300 & echo $! >$1; wait`, byProcessID, false},
		{"execution id", `sleep 300 & echo $! >$1; wait`, func(j *Job) string { return j.ExecutionID }, false},
		{"pid", `sleep 300 & echo $! >$1; wait`, func(j *Job) string { return strconv.Itoa(j.PID()) }, false},
		{"setsid", `setsid sleep 300 & echo $! >$1; wait`, byProcessID, false},
		{"term ignored", `trap '' TERM HUP INT; sleep 300 & echo $! >$1; while :; do wait; done`, byProcessID, false},
		{"stopped", `sleep 300 & echo $! >$1; kill -STOP $!; wait`, byProcessID, false},
		{"double fork", `python3 -c '` + escape + `' $1; sleep 300`, byProcessID, false},
		{"double fork as another user", `python3 -c '` + escape + `' $1 nobody; sleep 300`, byProcessID, false},
		{"left behind", `python3 -c '` + escape + `' $1`, byProcessID, true},
		{"tag removed", `ulimit -S -m unlimited; sleep 300 & echo $! >$1; wait`, byProcessID, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			cmd := command("/bin/bash", "-c", tt.script, "bash", file)
			cmd.Background = true
			j, err := tb.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			pid := pidIn(t, file)
			if tt.ends {
				<-j.Done()
			}
			if !alive(pid) {
				t.Fatal("not alive before the kill")
			}
			k, err := tb.Kill(t.Context(), tt.id(j))
			if err != nil {
				t.Fatal(err)
			}
			if alive(pid) {
				t.Errorf("process %d lives", pid)
			}
			select {
			case <-j.Done():
			default:
				t.Error("kill answered before the job was over")
			}
			r := j.Result()
			if !tt.ends && (r.Status != Killed || r.ExitCode != 137) {
				t.Errorf("%+v", r)
			}
			if k.Ended < 1 || k.Job != j {
				t.Errorf("%+v", k)
			}
			if again, err := tb.Kill(t.Context(), j.ID); err != nil || again.Ended != 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

// TestKillSparesOthers kills one job of two that look alike.
func TestKillSparesOthers(t *testing.T) {
	tb := newTable(t, Config{})
	dir := t.TempDir()
	var jobs [2]*Job
	for i := range jobs {
		cmd := command("/bin/bash", "-c", `python3 -c '`+escape+`' $1; sleep 300`, "bash", fmt.Sprint(dir, "/", i))
		cmd.Background = true
		var err error
		if jobs[i], err = tb.Start(cmd); err != nil {
			t.Fatal(err)
		}
	}
	first, second := pidIn(t, dir+"/0"), pidIn(t, dir+"/1")
	if _, err := tb.Kill(t.Context(), jobs[0].ID); err != nil {
		t.Fatal(err)
	}
	if alive(first) || !alive(second) {
		t.Errorf("first alive: %v, second alive: %v", alive(first), alive(second))
	}
	if jobs[1].Result().Status != Running {
		t.Error("the other job has ended")
	}
}

func TestKillAnyProcess(t *testing.T) {
	tb := newTable(t, Config{})
	file := filepath.Join(t.TempDir(), "pid")
	r := run(t, tb, command("/bin/bash", "-c", `setsid bash -c 'sleep 300 & echo $! >$1; wait' bash $1 >/dev/null 2>&1 & `, "bash", file))
	if r.ExitCode != 0 {
		t.Fatal(r)
	}
	pid := pidIn(t, file)
	s, _ := stat(pid)
	if _, err := tb.Kill(t.Context(), strconv.Itoa(s.PPID)); err != nil {
		t.Fatal(err)
	}
	if alive(pid) || alive(s.PPID) {
		t.Error("still alive")
	}
	for id, want := range map[string]error{
		"1": ErrProtected, strconv.Itoa(os.Getpid()): ErrProtected, strconv.Itoa(os.Getppid()): ErrProtected,
		"0": ErrUnknown, "-1": ErrUnknown, "": ErrUnknown, "proc_nothing": ErrUnknown, "99999999": ErrUnknown,
	} {
		if _, err := tb.Kill(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("kill %q: %v, want %v", id, err, want)
		}
	}
}

// TestKillForkBomb ends a tree that makes new processes as fast as it can.
func TestKillForkBomb(t *testing.T) {
	tb := newTable(t, Config{})
	cmd := command("python3", "-c", `
import os, resource
resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))
os.nice(19)
os.setuid(65534) # the limit binds everybody but root here; in a sandbox it binds root too
n = 0
while True:
    try: pid = os.fork()
    except OSError: continue
    if pid == 0:
        os.setsid()
        n += 1
        if n > 400: os.execv("/bin/sleep", ["sleep", "300"])
    else:
        if n > 2: os.wait()
`)
	cmd.Background = true
	j, err := tb.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a bomb", func() bool {
		all, err := snapshot()
		return err == nil && len(j.match()(all)) > 150
	})
	if _, err := tb.Kill(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	all, err := snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if left := living(j.match()(all)); len(left) != 0 {
		t.Errorf("%d processes left", len(left))
	}
}

func TestAbandonedRunIsKilled(t *testing.T) {
	tb := newTable(t, Config{})
	file := filepath.Join(t.TempDir(), "pid")
	j, err := tb.Start(command("/bin/bash", "-c", `echo $$ >$1; sleep 300`, "bash", file))
	if err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := j.Wait(ctx); r.Status != Killed || alive(pid) {
		t.Errorf("%+v, alive %v", r, alive(pid))
	}
	j.Release()
}

func TestShutdown(t *testing.T) {
	tb := newTable(t, Config{})
	if n, err := tb.Shutdown(t.Context(), time.Minute); n != 0 || err != nil {
		t.Fatalf("with nothing running: %d, %v", n, err)
	}
	dir := t.TempDir()
	start := func(script, name string) *Job {
		cmd := command("/bin/bash", "-c", script, "bash", filepath.Join(dir, name))
		cmd.Background = true
		j, err := tb.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		pidIn(t, filepath.Join(dir, name))
		return j
	}
	polite := start(`trap 'echo bye; exit 7' TERM; echo $$ >$1; while :; do sleep 0.01; done`, "polite")
	stubborn := start(`trap '' TERM; echo $$ >$1; while :; do sleep 0.01; done`, "stubborn")
	start(`python3 -c '`+escape+`' $1`, "escaped")
	pids := []int{polite.PID(), stubborn.PID(), pidIn(t, dir+"/escaped")}

	n, err := tb.Shutdown(t.Context(), 2*time.Second)
	if err != nil || n < 3 {
		t.Errorf("ended %d, %v", n, err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d lives", pid)
		}
	}
	<-polite.Done()
	<-stubborn.Done()
	if r := polite.Result(); r.ExitCode != 7 || r.Status != Killed || r.Stdout != "bye\n" {
		t.Errorf("polite: %+v", r)
	}
	if r := stubborn.Result(); r.ExitCode != 137 || r.Status != Killed {
		t.Errorf("stubborn: %+v", r)
	}
	if r := run(t, tb, command("true")); r.ExitCode != 0 {
		t.Errorf("after the shutdown: %+v", r)
	}
}

func TestBackgroundTailAndEviction(t *testing.T) {
	tb := newTable(t, Config{Tail: 64 << 10})
	cmd := bash(`head -c 1000000 /dev/zero | tr '\0' x; echo the end`)
	cmd.Background = true
	cmd.Label.Language = "bash"
	j, err := tb.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	<-j.Done()
	r := j.Result()
	if len(r.Stdout) != 64<<10 || !strings.HasSuffix(r.Stdout, "xthe end\n") || !r.Truncated {
		t.Errorf("%d bytes, truncated %v", len(r.Stdout), r.Truncated)
	}
	if !strings.HasPrefix(j.Label.Name, "bash-") || !strings.HasPrefix(j.ID, "cmd_") {
		t.Errorf("%q %q", j.Label.Name, j.ID)
	}
	for range maxFinished {
		cmd := command("true")
		cmd.Background = true
		j, err := tb.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		<-j.Done()
	}
	eventually(t, "the oldest forgotten", func() bool { return tb.Find(j.ID) == nil })
	if n := len(tb.Jobs()); n != maxFinished {
		t.Errorf("%d jobs listed", n)
	}
	eventually(t, "its memory given back", func() bool { return tb.budget.left.Load() == tb.cfg.Budget })
}

func TestLingeringStreamsAreBounded(t *testing.T) {
	tb := newTable(t, Config{})
	for range 10 {
		if r := run(t, tb, bash("sleep 300 & :")); r.ExitCode != 0 {
			t.Fatal(r)
		}
	}
	tb.mu.Lock()
	n := len(tb.lingering)
	tb.mu.Unlock()
	if n != 20 {
		t.Errorf("%d streams", n)
	}
	if _, err := tb.Shutdown(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all streams ended", func() bool {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		return len(tb.lingering) == 0
	})
}

func TestManyAtOnce(t *testing.T) {
	tb := newTable(t, Config{})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			want := strings.Repeat(strconv.Itoa(i), 1000) + "\n"
			r := run(t, tb, command("/bin/echo", strings.TrimSpace(want)))
			if r.ExitCode != 0 || r.Stdout != want {
				t.Errorf("%d: code %d, %d bytes, %q", i, r.ExitCode, len(r.Stdout), r.Stderr)
			}
		})
	}
	wg.Wait()
}

func TestNoDescriptorsLeft(t *testing.T) {
	tb := newTable(t, Config{})
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	run(t, tb, command("true"))
	before := count()
	for range 50 {
		run(t, tb, command("true"))
		run(t, tb, command("/no/such"))
		cmd := bash("exit 1")
		cmd.First = []string{"false"}
		run(t, tb, cmd)
	}
	eventually(t, "as many descriptors as before", func() bool { return count() <= before })
}

func TestClosedTable(t *testing.T) {
	tb, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	cmd := bash("sleep 300")
	cmd.Background = true
	j, err := tb.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := tb.Close(); err != nil {
		t.Fatal(err)
	}
	if alive(j.PID()) {
		t.Error("alive after close")
	}
	if _, err := tb.Start(command("true")); !errors.Is(err, ErrClosing) {
		t.Errorf("start after close: %v", err)
	}
}

func TestReserveForTheAgent(t *testing.T) {
	var n unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &n); err != nil {
		t.Fatal(err)
	}
	tb := newTable(t, Config{})
	want := min(n.Cur/2, 1000)
	tb.nproc = &unix.Rlimit{Cur: want, Max: want}
	r := run(t, tb, bash("ulimit -u; ulimit -H -u"))
	if r.Stdout != fmt.Sprintf("%d\n%d\n", want, want) {
		t.Errorf("%q", r.Stdout)
	}
	var after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &after); err != nil || after != n {
		t.Errorf("the agent's own limit changed: %v, %v", after, err)
	}
}

func FuzzParseStat(f *testing.F) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("12 (a) b) (c) S 1 2 3 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 100 200 300 18446744073709551615 1 1")
	f.Add("1 (x) Z 0 0 0")
	f.Add(") (")
	f.Fuzz(func(t *testing.T, s string) {
		st, ok := parseStat([]byte(s))
		if ok && !strings.Contains(s, "("+st.Name+")") {
			t.Errorf("name %q is not in %q", st.Name, s)
		}
	})
}

func FuzzParseRSSLimit(f *testing.F) {
	b, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("Max resident set          4611686018427387905  unlimited            bytes     \n")
	f.Add("Max resident set\n")
	f.Fuzz(func(t *testing.T, s string) { parseRSSLimit(s) })
}

// BenchmarkExecTrue is what the standard library takes for the same.
func BenchmarkExecTrue(b *testing.B) {
	for b.Loop() {
		var out, errs bytes.Buffer
		cmd := exec.Command("/bin/true")
		cmd.Env, cmd.Stdout, cmd.Stderr = testEnv, &out, &errs
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTrue(b *testing.B) {
	tb, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer tb.Close()
	cmd := command("/bin/true")
	for b.Loop() {
		j, err := tb.Start(cmd)
		if err != nil {
			b.Fatal(err)
		}
		j.Wait(context.Background())
		j.Release()
	}
}
