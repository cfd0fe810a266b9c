package guest

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/language"
	"github.com/hutch-sh/hutch/guest/process"
)

// plan reads a request for code and turns it into a command.
func (a *Agent) plan(w http.ResponseWriter, r *http.Request, def time.Duration) (process.Command, error) {
	var req api.ExecuteRequest
	if err := a.decode(w, r, &req); err != nil {
		return process.Command{}, err
	}
	lang, ok := language.Canonical(req.Language)
	if !ok {
		return process.Command{}, api.AgentError(api.CodeInvalidRequest,
			fmt.Sprintf("Language %.40q is not supported; use one of %s", req.Language, strings.Join(language.Names(), ", ")))
	}
	if req.Code == nil {
		return process.Command{}, api.AgentError(api.CodeMissingParameter, "code is needed")
	}
	s, err := a.surround(req.Workdir, req.WorkingDir, req.Timeout, def, req.Env)
	if err != nil {
		return process.Command{}, err
	}
	p, err := language.Prepare(lang, *req.Code, a.cfg.TempDir, func(program string) bool {
		_, err := process.Lookup(program, s.dir, s.env)
		return err == nil
	})
	if err != nil {
		return process.Command{}, api.AgentError(api.CodeFileOperationFailed, "The code could not be stored: "+err.Error())
	}
	return process.Command{
		Argv: p.Argv, First: p.First, Stdin: p.Stdin, Missing: p.Missing, Cleanup: p.Release,
		Dir: s.dir, Env: s.env, Timeout: s.timeout,
		Label: process.Label{Prefix: "proc", Name: req.Name, Language: lang, Line: line(lang, *req.Code)},
	}, nil
}

// clip bounds what is remembered of a command for lists: the command itself may
// be as long as a request.
func clip(s string) string {
	const most = 4096
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(strings.Clone(s[:most]), "") + "..."
}

// line is how code is shown in a list: its first line.
func line(lang, code string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(code), "\n")
	if r := []rune(first); len(r) > 80 {
		first = string(r[:77]) + "..."
	}
	return strings.TrimSpace(lang + ": " + first)
}

// execute runs code and answers with how it ended.
func (a *Agent) execute(w http.ResponseWriter, r *http.Request) error {
	cmd, err := a.plan(w, r, foregroundTimeout)
	if err != nil {
		return err
	}
	res, id, release, err := a.run(r.Context(), cmd)
	if err != nil {
		return err
	}
	defer release()
	answer(w, r, api.ExecuteResponse{
		Success: res.ExitCode == 0, Stdout: res.Stdout, Stderr: res.Stderr, ExitCode: res.ExitCode,
		ExecutionTime: res.Took.Seconds(), Language: cmd.Label.Language,
		Truncated: res.Truncated, TimedOut: res.TimedOut, ExecutionID: id, Timestamp: a.timestamp(),
	})
	return nil
}

// executeBackground starts code and answers at once.
func (a *Agent) executeBackground(w http.ResponseWriter, r *http.Request) error {
	cmd, err := a.plan(w, r, backgroundTimeout)
	if err != nil {
		return err
	}
	return a.background(w, r, cmd)
}

// background starts cmd as a job.
func (a *Agent) background(w http.ResponseWriter, r *http.Request, cmd process.Command) error {
	cmd.Background = true
	j, res, err := a.start(cmd)
	if err != nil {
		return err
	}
	if j == nil { // nothing to kill or to list later
		return api.AgentError(api.CodeConflict, strings.TrimSpace(res.Stderr))
	}
	a.started(w, r, j)
	return nil
}

// command turns a request into a command.
func (a *Agent) command(w http.ResponseWriter, r *http.Request, def time.Duration) (process.Command, error) {
	var req api.CommandRequest
	if err := a.decode(w, r, &req); err != nil {
		return process.Command{}, err
	}
	if req.Command == nil || *req.Command == "" {
		return process.Command{}, api.AgentError(api.CodeMissingParameter, "command is needed")
	}
	s, err := a.surround(req.Workdir, req.WorkingDir, req.Timeout, def, req.Env)
	if err != nil {
		return process.Command{}, err
	}
	return process.Command{
		Argv: append([]string{*req.Command}, req.Args...), Shell: true,
		Dir: s.dir, Env: s.env, Timeout: s.timeout,
		Label: process.Label{
			Prefix: "cmd", Name: req.Name,
			Line: clip(strings.Join(append([]string{*req.Command}, req.Args...), " ")),
		},
	}, nil
}

// runCommand runs a program and answers with how it ended.
func (a *Agent) runCommand(w http.ResponseWriter, r *http.Request) error {
	cmd, err := a.command(w, r, foregroundTimeout)
	if err != nil {
		return err
	}
	res, id, release, err := a.run(r.Context(), cmd)
	if err != nil {
		return err
	}
	defer release()
	answer(w, r, api.CommandResponse{
		Success: res.ExitCode == 0, Stdout: res.Stdout, Stderr: res.Stderr, ExitCode: res.ExitCode,
		ExecutionTime: res.Took.Seconds(), Command: cmd.Label.Line, PID: res.PID,
		Truncated: res.Truncated, TimedOut: res.TimedOut, ExecutionID: id, Timestamp: a.timestamp(),
	})
	return nil
}

// startCommand starts a program and answers at once.
func (a *Agent) startCommand(w http.ResponseWriter, r *http.Request) error {
	cmd, err := a.command(w, r, foregroundTimeout)
	if err != nil {
		return err
	}
	cmd.Label.Name = cmp.Or(cmd.Label.Name, jobName(cmd.Argv[0]))
	return a.background(w, r, cmd)
}

// jobName is how a program's job is called: the program without its directory.
func jobName(program string) string {
	name := program[strings.LastIndexByte(program, '/')+1:]
	name, _, _ = strings.Cut(name, " ")
	if r := []rune(name); len(r) > 40 {
		name = string(r[:40])
	}
	return name
}
