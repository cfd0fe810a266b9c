package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/api"
)

func TestCommands(t *testing.T) {
	f := ready(t)
	for _, tt := range []struct {
		name   string
		req    m
		code   int
		stdout string
		stderr string
	}{
		{"args", m{"command": "printf", "args": []string{"%s|", "a b", "$HOME", "*"}}, 0, "a b|$HOME|*|", ""},
		{"no args", m{"command": "true"}, 0, "", ""},
		{"null args", m{"command": "true", "args": nil, "env": nil, "timeout": nil}, 0, "", ""},
		{"zero timeout", m{"command": "true", "timeout": 0}, 0, "", ""},
		{"huge timeout", m{"command": "true", "timeout": 1e15}, 0, "", ""},
		{"fractional timeout", m{"command": "true", "timeout": 30.5}, 0, "", ""},
		{"non-zero", m{"command": "bash", "args": []string{"-c", "echo out; echo err >&2; exit 3"}}, 3, "out\n", "err\n"},
		{"signal", m{"command": "bash", "args": []string{"-c", "kill -SEGV $$"}}, 139, "", ""},
		{"not found", m{"command": "no-such-thing"}, 127, "", "command not found"},
		{"line of shell", m{"command": "echo hello | tr a-z A-Z; exit 4"}, 4, "HELLO\n", ""},
		{"unicode", m{"command": "echo", "args": []string{"ünï 🦔"}}, 0, "ünï 🦔\n", ""},
		{"no utf-8", m{"command": "printf", "args": []string{`a\xffb`}}, 0, "a\uFFFDb", ""},
		{"older name", m{"command": "pwd", "working_dir": "/tmp"}, 0, "/tmp\n", ""},
		{"unknown fields", m{"command": "true", "stream": true}, 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := f.run("/commands/run", tt.req)
			if *r.ExitCode != tt.code || r.Stdout != tt.stdout || !strings.Contains(r.Stderr, tt.stderr) {
				t.Errorf("%+v", r)
			}
		})
	}
	for name, bad := range map[string]struct{ body, code string }{
		"empty":    {``, api.CodeInvalidJSON},
		"array":    {`[]`, api.CodeInvalidJSON},
		"type":     {`{"command":1}`, api.CodeInvalidJSON},
		"no":       {`{}`, api.CodeMissingParameter},
		"blank":    {`{"command":""}`, api.CodeMissingParameter},
		"negative": {`{"command":"true","timeout":-1}`, api.CodeInvalidRequest},
		"text":     {`{"command":"true","timeout":"5"}`, api.CodeInvalidJSON},
		"env name": {`{"command":"true","env":{"A=B":"c"}}`, api.CodeInvalidRequest},
		"env nul":  {`{"command":"true","env":{"A":"\u0000"}}`, api.CodeInvalidRequest},
		"dir nul":  {`{"command":"true","workdir":"/\u0000"}`, api.CodeInvalidPath},
		"dir file": {`{"command":"true","workdir":"/etc/passwd"}`, api.CodeInvalidPath},
		"dir sub":  {`{"command":"true","workdir":"/etc/passwd/x"}`, api.CodeFileOperationFailed},
		"trailing": {`{"command":"true"} x`, api.CodeInvalidJSON},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fixture{T: t, url: f.url, client: f.client, token: f.token}
			f.post("/commands/run", bad.body).fails(400, bad.code)
			f.post("/commands/background", bad.body).fails(400, bad.code)
		})
	}
	f.post("/commands/run", `{"command":"`+strings.Repeat("x", maxJSON)+`"}`).fails(413, api.CodeRequestTooLarge)
}

func TestNoShell(t *testing.T) {
	f := ready(t)
	// No template without /bin/sh is at hand, so look for another one.
	if _, err := os.Stat("/bin/sh"); err == nil {
		r := f.run("/commands/run", m{"command": "echo a b", "env": m{"PATH": "/nowhere"}})
		if *r.ExitCode != 0 || r.Stdout != "a b\n" {
			t.Errorf("%+v", r)
		}
	}
	r := f.run("/commands/run", m{"command": "echo", "env": m{"PATH": "/nowhere"}})
	if *r.ExitCode != 127 {
		t.Errorf("found without a PATH: %+v", r)
	}
}

func TestWorkdir(t *testing.T) {
	f := mute(t)
	dir := t.TempDir()
	pwd := func(workdir string) string {
		t.Helper()
		req := m{"command": "bash", "args": []string{"-c", "pwd; echo $PWD"}}
		if workdir != "" {
			req["workdir"] = workdir
		}
		r := f.run("/commands/run", req)
		first, second, _ := strings.Cut(strings.TrimSpace(r.Stdout), "\n")
		if first != second {
			t.Errorf("pwd %q, PWD %q", first, second)
		}
		return first
	}
	f.introduce(f.identity())
	if err := os.RemoveAll(f.workspace); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"": f.workspace, f.workspace: f.workspace, f.workspace + "/": f.workspace, "sub/dir": f.workspace + "/sub/dir",
		dir + "/made/for/you": dir + "/made/for/you", "/": "/",
	} {
		if got := pwd(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	// A template that declares another one wins over the clients' default.
	id := f.identity()
	id.Workdir = dir + "/app"
	f.introduce(id)
	for in, want := range map[string]string{
		"": dir + "/app", f.workspace: dir + "/app", f.workspace + "/x": f.workspace + "/x", "rel": dir + "/app/rel", "/tmp": "/tmp",
	} {
		if got := pwd(in); got != want {
			t.Errorf("with a template's: %q: %q", in, got)
		}
	}
	var list api.FileList
	f.get("/files/list").want(200).into(&list)
	if list.Path != dir+"/app" {
		t.Errorf("list %q", list.Path)
	}
}

func TestTimeouts(t *testing.T) {
	f := ready(t)
	start := time.Now()
	r := f.bash("echo before; sleep 300 & echo $! >pid; sleep 300", m{"timeout": 0.4})
	if *r.ExitCode != 124 || r.Success || !r.TimedOut || r.Stdout != "before\n" || !strings.Contains(r.Stderr, "timed out after 400ms") {
		t.Errorf("%+v", r)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	b, err := os.ReadFile(f.workspace + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); err == nil {
		st, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
		if !strings.Contains(string(st), ") Z ") {
			t.Errorf("still there: %s", st)
		}
	}
	r = f.run("/execute", m{"language": "python", "code": "import time\nprint('x')\ntime.sleep(300)", "timeout": 8}) // longer than python needs to start on a busy machine
	if *r.ExitCode != 124 || r.Stdout != "x\n" {
		t.Errorf("%+v", r)
	}
}

func TestOutputLimit(t *testing.T) {
	f := ready(t, func(c *Config) { c.Output = 1 << 20 })
	r := f.bash(`head -c 5000000 /dev/zero | tr '\0' x; echo done >&2`)
	if *r.ExitCode != 0 || len(r.Stdout) != 1<<20 || !r.Truncated || r.Stderr != "done\n" {
		t.Errorf("%d bytes, %v, %q", len(r.Stdout), r.Truncated, r.Stderr)
	}
}

func TestExecute(t *testing.T) {
	f := ready(t)
	has := func(name string) bool { _, err := exec.LookPath(name); return err == nil }
	long := strings.Repeat("# padding padding padding\n", 8000)
	for _, tt := range []struct {
		name, needs string
		req         m
		code        int
		stdout      string
		stderr      string
	}{
		{"default language", "python3", m{"code": "import os\nprint(os.getcwd())"}, 0, f.workspace + "\n", ""},
		{"python3", "python3", m{"language": "python3", "code": "print('ü🦔')"}, 0, "ü🦔\n", ""},
		{"exception", "python3", m{"code": "print('a')\nraise ValueError('boom')"}, 1, "a\n", "ValueError: boom"},
		{"exit", "python3", m{"code": "import sys; sys.exit(7)"}, 7, "", ""},
		{"stdin", "python3", m{"code": "import sys; print(repr(sys.stdin.read()))"}, 0, "''\n", ""},
		{"long python", "python3", m{"code": long + "print(1+1)"}, 0, "2\n", ""},
		{"own env", "python3", m{"code": "import os; print(os.environ['X'], os.environ['CREATION'])", "env": m{"X": "1"}}, 0, "1 c\n", ""},
		{"import from the working directory", "python3", m{"code": "import helper; print(helper.x)"}, 0, "42\n", ""},
		{"javascript", "node", m{"language": "javascript", "code": "console.log(process.cwd(), [1,2].map(x => x*2))"}, 0, f.workspace + " [ 2, 4 ]\n", ""},
		{"js error", "node", m{"language": "nodejs", "code": "console.log(1); throw new Error('boom')"}, 1, "1\n", "boom"},
		{"long js", "node", m{"language": "node", "code": strings.ReplaceAll(long, "#", "//") + "console.log(3)"}, 0, "3\n", ""},
		{"bash", "bash", m{"language": "bash", "code": "for i in 1 2; do echo $i; done; exit 1"}, 1, "1\n2\n", ""},
		{"long bash reads its own input", "bash", m{"language": "bash", "code": long + "read x; echo \"<$x>\"; echo end"}, 0, "<>\nend\n", ""},
		{"sh", "sh", m{"language": "sh", "code": "echo $0"}, 0, "sh\n", ""},
		{"stderr alone is success", "sh", m{"language": "shell", "code": "echo x >&2"}, 0, "", "x\n"},
		{"empty code", "sh", m{"language": "sh", "code": ""}, 0, "", ""},
		{"go", "go", m{"language": "go", "code": "package main\n\nimport (\"fmt\"; \"os\")\n\nfunc main() { d, _ := os.Getwd(); fmt.Println(d); os.Exit(5) }\n"}, 5, f.workspace + "\n", ""},
		{"go does not compile", "go", m{"language": "go", "code": "package main\nfunc main() { x }\n"}, 1, "", "undefined: x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !has(tt.needs) {
				t.Skip("this machine has no " + tt.needs)
			}
			if err := os.MkdirAll(f.workspace, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f.workspace+"/helper.py", []byte("x = 42\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			req := m{"workdir": f.workspace, "timeout": 120}
			for k, v := range tt.req {
				req[k] = v
			}
			if tt.needs == "go" {
				req["env"] = m{"HOME": os.Getenv("HOME"), "GOFLAGS": "-p=1"}
			}
			r := f.run("/execute", req)
			if *r.ExitCode != tt.code || r.Stdout != tt.stdout || !strings.Contains(r.Stderr, tt.stderr) {
				t.Errorf("%+v", r)
			}
		})
	}
	left, err := filepath.Glob(f.agent.cfg.TempDir + "/*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	f.post("/execute", m{"language": "cobol", "code": "x"}).fails(400, api.CodeInvalidRequest)
	f.post("/execute", m{"language": "python"}).fails(400, api.CodeMissingParameter)
	f.post("/execute", `{"code":`).fails(400, api.CodeInvalidJSON)
	for _, lang := range []string{"python", "javascript", "bash", "sh", "go"} {
		r := f.run("/execute", m{"language": lang, "code": "x", "env": m{"PATH": "/nowhere"}})
		switch lang {
		case "sh", "go": // also looked for where they always are
		default:
			if *r.ExitCode != 127 || !strings.Contains(r.Stderr, "code-interpreter") {
				t.Errorf("%s: %+v", lang, r)
			}
		}
	}
}

func TestBackgroundAndKill(t *testing.T) {
	f := ready(t)
	var jobs []api.BackgroundResponse
	start := func(path string, req m) api.BackgroundResponse {
		t.Helper()
		var raw map[string]any
		var out api.BackgroundResponse
		f.post(path, req).want(200).into(&raw).into(&out)
		for _, k := range []string{"process_id", "execution_id", "status", "start_time", "message", "name", "stdout", "stderr", "exit_code", "execution_time", "pid"} {
			if _, ok := raw[k]; !ok {
				t.Errorf("%s: no %s", path, k)
			}
		}
		jobs = append(jobs, out)
		return out
	}
	sleep := m{"command": "sleep", "args": []string{"300"}, "timeout": 600}
	a := start("/commands/background", sleep)
	b := start("/execute/background", m{"code": "import time; time.sleep(300)", "language": "python"})
	c := start("/commands/background", m{"command": "bash", "args": []string{"-c", "setsid sleep 300 & echo $! >escaped; wait"}, "workdir": f.workspace})
	d := start("/execute/background", m{"code": "echo hello; echo oops >&2; exit 3", "language": "bash", "name": "my job"})
	if !strings.HasPrefix(a.ProcessID, "cmd_") || !strings.HasPrefix(b.ProcessID, "proc_") || !strings.Contains(b.Name, "python") || d.Name != "my job" {
		t.Errorf("%+v %+v", a, b)
	}
	list := func() map[string]api.Job {
		t.Helper()
		var out api.JobList
		var raw struct{ Processes []map[string]any }
		f.get("/execute/processes").want(200).into(&out).into(&raw)
		if out.Count != len(out.Processes) {
			t.Errorf("count %d", out.Count)
		}
		for _, p := range raw.Processes {
			for _, k := range []string{"process_id", "execution_id", "name", "status", "language", "start_time", "started_at", "command"} {
				if _, ok := p[k].(string); !ok {
					t.Errorf("%s is %v", k, p[k])
				}
			}
		}
		m := map[string]api.Job{}
		for _, j := range out.Processes {
			m[j.ProcessID] = j
		}
		return m
	}
	f.eventually("the short job has ended", func() bool { return list()[d.ProcessID].Status == api.JobFailed })
	l := list()
	if len(l) != 4 || l[a.ProcessID].Status != api.JobRunning || l[b.ProcessID].Language != "python" || *l[d.ProcessID].ExitCode != 3 || l[d.ProcessID].EndTime == nil {
		t.Errorf("%+v", l)
	}
	var shown api.JobOutput
	f.get("/execute/processes/" + d.ExecutionID).want(200).into(&shown)
	if shown.Stdout != "hello\n" || shown.Stderr != "oops\n" || shown.Status != api.JobFailed {
		t.Errorf("%+v", shown)
	}
	f.get("/execute/processes/none").fails(404, api.CodeProcessNotFound)

	var procs api.ProcessList
	f.get("/processes").want(200).into(&procs)
	found := false
	for _, p := range procs.Processes {
		if p.PID == a.PID {
			found = p.ProcessID == a.ProcessID && p.Name == "sleep" && p.Command == "sleep 300" && p.Status == "running" && p.PPID == os.Getpid()
		}
	}
	if !found || procs.Count != len(procs.Processes) {
		t.Errorf("not in the list of processes: %+v", a)
	}

	var killed api.KillResponse
	f.post("/execute/kill/"+a.ProcessID, nil).want(200).into(&killed)
	if !killed.Success || killed.Ended != 1 || killed.ProcessID != a.ProcessID || killed.Status != api.JobKilled {
		t.Errorf("%+v", killed)
	}
	if err := goneErr(a.PID); err != nil {
		t.Error(err)
	}
	f.post("/processes/"+b.ExecutionID+"/kill", nil).want(200).into(&killed)
	f.eventually("the escape", func() bool { _, err := os.Stat(f.workspace + "/escaped"); return err == nil })
	var escaped int
	f.eventually("its pid", func() bool {
		s, err := os.ReadFile(f.workspace + "/escaped")
		if err != nil {
			return false
		}
		escaped, err = strconv.Atoi(strings.TrimSpace(string(s)))
		return err == nil
	})
	f.call(http.MethodDelete, "/execute/kill?process_id="+strconv.Itoa(c.PID), nil).want(200).into(&killed)
	if killed.ProcessID != c.ProcessID || killed.Ended < 2 {
		t.Errorf("%+v", killed)
	}
	if err := goneErr(escaped); err != nil {
		t.Error(err)
	}
	f.post("/execute/kill/"+d.ProcessID, nil).want(200).into(&killed)
	if killed.Ended != 0 || killed.Status != api.JobFailed {
		t.Errorf("%+v", killed)
	}
	for id, j := range list() {
		want := api.JobKilled
		if id == d.ProcessID {
			want = api.JobFailed
		}
		if j.Status != want {
			t.Errorf("%s is %s", id, j.Status)
		}
	}
	f.post("/execute/kill/proc_none", nil).fails(404, api.CodeProcessNotFound)
	f.post("/processes/99999999/kill", nil).fails(404, api.CodeProcessNotFound)
	f.post("/execute/kill/1", nil).fails(400, api.CodeInvalidRequest)
	f.post("/processes/"+strconv.Itoa(os.Getpid())+"/kill", nil).fails(400, api.CodeInvalidRequest)
	f.call(http.MethodDelete, "/execute/kill", nil).fails(400, api.CodeMissingParameter)
}

// goneErr says what is left of a process. A zombie whose parent is the machine's
// own init is dead; that init takes its time.
func goneErr(pid int) error {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // empty when it is gone
	if len(b) == 0 || strings.Contains(string(b), ") Z ") {
		return nil
	}
	return fmt.Errorf("process %d is left: %s", pid, b)
}

func TestBackgroundNotStarted(t *testing.T) {
	f := ready(t)
	var job api.BackgroundResponse
	f.post("/commands/background", m{"command": "no-such-thing"}).want(200).into(&job)
	if job.Success || job.Status != api.JobFailed || job.ExitCode != 127 || !strings.Contains(job.Stderr, "not found") || job.ProcessID == "" {
		t.Errorf("%+v", job)
	}
}

func TestBackgroundTimeout(t *testing.T) {
	f := ready(t)
	var job api.BackgroundResponse
	f.post("/commands/background", m{"command": "sleep", "args": []string{"300"}, "timeout": 0.2}).want(200).into(&job)
	var shown api.JobOutput
	f.eventually("killed at its timeout", func() bool {
		f.get("/execute/processes/" + job.ProcessID).want(200).into(&shown)
		return shown.Status == api.JobKilled
	})
	if *shown.ExitCode != 124 || !strings.Contains(shown.Stderr, "timed out") {
		t.Errorf("%+v", shown)
	}
	if err := goneErr(job.PID); err != nil {
		t.Error(err)
	}
}

func TestDaemonSurvivesItsCommand(t *testing.T) {
	f := ready(t)
	start := time.Now()
	r := f.bash(`nohup python3 -m http.server 0 --bind 127.0.0.1 >/dev/null 2>&1 & echo $!`)
	if *r.ExitCode != 0 || time.Since(start) > 20*time.Second {
		t.Fatalf("%+v after %v", r, time.Since(start))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
	if err != nil {
		t.Fatal(err)
	}
	if goneErr(pid) == nil {
		t.Error("the server is gone")
	}
	f.post("/execute/kill/"+strconv.Itoa(pid), nil).want(200)
	if err := goneErr(pid); err != nil {
		t.Error(err)
	}
}

// TestClientGoesAway cancels a request: what it ran must not go on.
func TestClientGoesAway(t *testing.T) {
	f := ready(t)
	pidfile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	body, err := json.Marshal(m{"command": "bash", "args": []string{"-c", "echo $$ >" + pidfile + "; sleep 300"}})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+"/commands/run", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.token)
	done := make(chan error, 1)
	go func() {
		res, err := f.client.Do(req)
		if err == nil {
			res.Body.Close()
		}
		done <- err
	}()
	var pid int
	f.eventually("started", func() bool {
		b, err := os.ReadFile(pidfile)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	cancel()
	if err := <-done; err == nil {
		t.Error("an answer after all")
	}
	f.eventually("the abandoned command is gone", func() bool { return goneErr(pid) == nil })
}

func TestManyCommandsAtOnce(t *testing.T) {
	f := ready(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			r := f.run("/commands/run", m{"command": "bash", "args": []string{"-c", fmt.Sprintf("echo %d; exit %d", i, i%3)}, "workdir": f.workspace})
			if *r.ExitCode != i%3 || r.Stdout != fmt.Sprintln(i) {
				t.Errorf("%d: %+v", i, r)
			}
		})
	}
	wg.Wait()
	var out api.Metrics
	f.get("/metrics").want(200).into(&out)
	if out.TotalExecutions != 40 || out.ActiveExecutions != 0 {
		t.Errorf("%+v", out)
	}
}
