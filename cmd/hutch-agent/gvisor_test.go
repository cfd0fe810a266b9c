package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/internal/handshake"
)

// runsc returns gVisor's runtime, as `make build` leaves it or as the
// environment names it.
func runsc(t testing.TB) string {
	t.Helper()
	for _, p := range []string{os.Getenv("HUTCH_TEST_RUNSC"), "../../bin/carried/runsc"} {
		if p == "" {
			continue
		}
		if abs, err := filepath.Abs(p); err == nil {
			if _, err := os.Stat(abs); err == nil {
				return abs
			}
		}
	}
	t.Skip("no runsc: build one with `make build`, or name one in HUTCH_TEST_RUNSC")
	return ""
}

// maxProcs is the sandbox's limit on processes.
const maxProcs = 256

// startGVisor starts init in gVisor, with the limits and capabilities hosts
// give, on this machine's root with everything written kept in memory.
func startGVisor(t *testing.T) *box {
	t.Helper()
	rt := runsc(t)
	b, w, args := newBox(t)
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
		"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	}
	type m = map[string]any
	spec, err := json.Marshal(m{
		"ociVersion": "1.0.0", "hostname": "host-made",
		"process": m{
			"user": m{"uid": 0, "gid": 0}, "args": append([]string{program, "init"}, args...), "env": []string{}, "cwd": "/",
			"noNewPrivileges": true, "capabilities": m{"bounding": caps, "effective": caps, "permitted": caps},
			"rlimits": []m{{"type": "RLIMIT_NPROC", "hard": maxProcs, "soft": maxProcs}, {"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096}},
		},
		"root": m{"path": "/", "readonly": false},
		"mounts": []m{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
		},
		"linux": m{"namespaces": []m{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	bundle, state := t.TempDir(), t.TempDir()
	if err := os.WriteFile(bundle+"/config.json", spec, 0o600); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("agent-test-%d", time.Now().UnixNano())
	flags := []string{"--root", state, "--platform=systrap", "--network=host", "--overlay2=root:memory", "--ignore-cgroups"}
	b.cmd = exec.Command(rt, slices.Concat(flags, []string{"run", "-bundle", bundle, name})...)
	t.Cleanup(func() { // after launch's, which kills runsc and not what it made
		if out, err := exec.Command(rt, slices.Concat(flags, []string{"delete", "-force", name})...).CombinedOutput(); err != nil {
			t.Logf("delete: %v: %s", err, out)
		}
		// runsc keeps an empty network namespace mounted below its state.
		if err := syscall.Unmount(state+"/null-netns", 0); err != nil && err != syscall.ENOENT && err != syscall.EINVAL {
			t.Logf("unmount: %v", err)
		}
	})
	b.launch(w)
	return b
}

func TestGVisor(t *testing.T) {
	b := startGVisor(t)
	var first api.IdentityResponse
	b.must("POST", handshake.IdentityPath, b.id, &first)
	if len(first.Warnings) > 0 {
		t.Errorf("warnings %v", first.Warnings)
	}
	t.Logf("identity took %.1f ms", first.TookMS)
	b.must("POST", handshake.IdentityPath, b.id, &first)
	t.Logf("identity again took %.1f ms", first.TookMS)
	if r := b.bash(`cat /etc/hostname; grep -c 10.9.8.7 /etc/resolv.conf; pwd; echo $CREATION; ls /proc/self/fd | wc -l; ulimit -u; ulimit -H -u`); r.Stdout != fmt.Sprintf("box\n1\n/workspace\nc\n4\n%d\n%d\n", maxProcs-48, maxProcs-48) {
		t.Errorf("%q %q", r.Stdout, r.Stderr)
	}

	t.Run("kill finds what hides", func(t *testing.T) {
		b := b.in(t)
		var job api.BackgroundResponse
		b.must("POST", "/commands/background", map[string]any{"command": "python3", "args": []string{"-c", `
import os
if os.fork(): os.wait()
else:
    os.setsid()
    if os.fork(): os._exit(0)
    os.execve("/bin/sleep", ["sleep", "300"], {})
import time; time.sleep(300)
`}}, &job)
		b.eventually("it hides", func() bool { return b.bash("pgrep -c -P 1 sleep").Stdout == "1\n" })
		began := time.Now()
		var k api.KillResponse
		b.must("POST", "/execute/kill/"+job.ExecutionID, nil, &k)
		t.Logf("killed %d in %v", k.Ended, time.Since(began))
		if r := b.bash("pgrep -c sleep; pgrep -c python3"); r.Stdout != "0\n0\n" || k.Ended != 2 {
			t.Errorf("%q, %+v", r.Stdout, k)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		b := b.in(t)
		began := time.Now()
		var r api.CommandResponse
		b.must("POST", "/commands/run", map[string]any{"command": "bash", "args": []string{"-c", "setsid sleep 300 & echo x; sleep 300"}, "timeout": 0.5}, &r)
		if r.ExitCode != 124 || r.Stdout != "x\n" || time.Since(began) > 20*time.Second {
			t.Errorf("%+v after %v", r, time.Since(began))
		}
		if r := b.bash("pgrep -c sleep"); r.Stdout != "0\n" {
			t.Errorf("%q", r.Stdout)
		}
	})
	t.Run("restart", func(t *testing.T) {
		b := b.in(t)
		for i := range 2 {
			before := b.bashPPID()
			if status, _, err := b.do("POST", "/commands/run", map[string]any{"command": "bash", "args": []string{"-c", "kill -9 $PPID"}}); err == nil {
				t.Errorf("an answer from the dead: %d", status)
			}
			took := b.eventually("another agent", func() bool { status, _, err := b.do("GET", "/health", nil); return err == nil && status == 200 })
			t.Logf("another agent after %v", took)
			if took > 2*time.Second || b.bashPPID() == before {
				t.Errorf("death %d: %v", i, took)
			}
		}
	})
	t.Run("fork bomb", func(t *testing.T) {
		b := b.in(t)
		agent := b.bashPPID()
		var job api.BackgroundResponse
		b.must("POST", "/commands/background", map[string]any{"command": "bash", "args": []string{"-c", ":(){ :|:& };: 2>/dev/null; while :; do bash -c ':(){ :|:& };:' 2>/dev/null; done"}}, &job)
		var list api.ProcessList
		b.eventually("the sandbox is full", func() bool {
			b.must("GET", "/processes", nil, &list)
			return list.Count > maxProcs-80
		})
		t.Logf("%d processes", list.Count)
		// Whoever looks around may still do so.
		var r api.CommandResponse
		b.must("POST", "/commands/run", map[string]any{"command": "true"}, &r)
		if r.ExitCode != 0 {
			t.Errorf("%+v", r)
		}
		began := time.Now()
		var k api.KillResponse
		b.must("POST", "/execute/kill/"+job.ProcessID, nil, &k)
		t.Logf("killed %d in %v", k.Ended, time.Since(began))
		if now := b.bashPPID(); now != agent {
			t.Errorf("the agent died: %d, then %d", agent, now)
		}
		b.must("GET", "/processes", nil, &list)
		if list.Count > 4 {
			t.Errorf("%d processes are left: %+v", list.Count, list.Processes)
		}
	})
	t.Run("too many jobs", func(t *testing.T) {
		b := b.in(t)
		agent := b.bashPPID()
		refused := 0
		for range maxProcs + 50 {
			var job api.BackgroundResponse
			b.must("POST", "/commands/background", map[string]any{"command": "sleep", "args": []string{"300"}}, &job)
			if job.Status != api.JobRunning {
				refused++
			}
		}
		var r api.CommandResponse
		b.must("POST", "/commands/run", map[string]any{"command": "true"}, &r)
		if refused == 0 || r.Success || !strings.Contains(r.Stderr, "limit on processes") {
			t.Errorf("%d refused, %+v", refused, r)
		}
		var ended api.ShutdownResponse
		b.must("POST", handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID, GraceMS: 5000}, &ended)
		t.Logf("%d refused, %d ended", refused, ended.Ended)
		if now := b.bashPPID(); now != agent || ended.Ended < 100 {
			t.Errorf("agent %d, then %d; %+v", agent, now, ended)
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		b := b.in(t)
		r := b.bash("ulimit -n; exec python3 -c 'import os\ntry:\n  while True: os.dup(0)\nexcept OSError as e: print(e.errno)'")
		if r.ExitCode != 0 || !strings.HasSuffix(r.Stdout, "\n24\n") {
			t.Errorf("%+v", r)
		}
		b.must("GET", "/health", nil, nil)
	})
	t.Run("figures", func(t *testing.T) {
		b := b.in(t)
		var inside, whole []time.Duration
		for range 200 {
			began := time.Now()
			var r api.CommandResponse
			b.must("POST", "/commands/run", map[string]any{"command": "/bin/true"}, &r)
			whole = append(whole, time.Since(began))
			inside = append(inside, time.Duration(r.ExecutionTime*float64(time.Second)))
		}
		var ping []time.Duration
		for range 200 {
			began := time.Now()
			b.must("GET", "/ping", nil, nil)
			ping = append(ping, time.Since(began))
		}
		t.Logf("resident memory of init and agent in KiB: %q", b.bash("grep -h VmRSS /proc/1/status /proc/$PPID/status | tr -d '\\n'").Stdout)
		for name, d := range map[string][]time.Duration{"run /bin/true, seen from outside": whole, "the same, start to exit": inside, "ping": ping} {
			slices.Sort(d)
			t.Logf("%s: n=%d p50 %v p90 %v max %v", name, len(d), d[len(d)/2], d[len(d)*9/10], d[len(d)-1])
		}
	})
	t.Run("upload", func(t *testing.T) {
		b := b.in(t)
		const size = 128 << 20
		head := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
		tail := "\r\n--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/root/x\r\n--b--\r\n"
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/files/upload",
			io.MultiReader(strings.NewReader(head), bytes.NewReader(make([]byte, size)), strings.NewReader(tail)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+b.token)
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		began := time.Now()
		res, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if r := b.bash("stat -c %s /root/x; rm /root/x"); res.StatusCode != 200 || r.Stdout != fmt.Sprintln(size) {
			t.Errorf("%d, %q", res.StatusCode, r.Stdout)
		}
		t.Logf("%.0f MiB/s", size/(1<<20)/time.Since(began).Seconds())
	})
	t.Run("shutdown", func(t *testing.T) {
		b := b.in(t)
		b.bash("setsid sleep 300 >/dev/null 2>&1 &")
		var ended api.ShutdownResponse
		began := time.Now()
		b.must("POST", handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID, GraceMS: 60000}, &ended)
		if ended.Ended != 1 || time.Since(began) > 20*time.Second {
			t.Errorf("%+v after %v", ended, time.Since(began))
		}
		began = time.Now()
		b.must("POST", handshake.ShutdownPath, handshake.Shutdown{SandboxID: sandboxID, GraceMS: 5000}, &ended)
		t.Logf("a shutdown with nothing to end took %v", time.Since(began))
		if ended.Ended != 0 {
			t.Errorf("%+v", ended)
		}
	})
}

// in is the same box for another test.
func (b *box) in(t *testing.T) *box {
	c := *b
	c.T = t
	return &c
}
