package guest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/environment"
	"github.com/hutch-sh/hutch/guest/file"
	"github.com/hutch-sh/hutch/guest/process"
)

// Timeouts for those who name none: the clients' own.
const (
	foregroundTimeout = 120 * time.Second
	backgroundTimeout = 300 * time.Second
)

// surroundings are what every execution has, whatever it executes.
type surroundings struct {
	dir     string
	env     []string
	timeout time.Duration
}

// surround checks what a request says about an execution's surroundings.
func (a *Agent) surround(workdir, older string, timeout *api.Seconds, def time.Duration, own api.EnvVars) (surroundings, error) {
	var s surroundings
	var err error
	if s.timeout, err = timeout.Duration(def); err != nil {
		return s, api.AgentError(api.CodeInvalidRequest, err.Error())
	}
	if err := environment.CheckAll(own); err != nil {
		return s, api.AgentError(api.CodeInvalidRequest, err.Error())
	}
	if workdir == "" {
		workdir = older
	}
	if s.dir, err = a.workdir(workdir); err != nil {
		return s, err
	}
	s.env = a.env.For(own)
	if _, ok := own["PWD"]; !ok {
		s.env = slices.DeleteFunc(s.env, func(kv string) bool { return strings.HasPrefix(kv, "PWD=") })
		s.env = append(s.env, "PWD="+s.dir)
	}
	return s, nil
}

func resolve(path, dir string) (string, error) { return file.Resolve(path, dir) }

// makeWorkdir makes dir unless it is there.
func makeWorkdir(dir string) error {
	fi, err := os.Stat(dir)
	switch {
	case err == nil && fi.IsDir():
		return nil
	case err == nil:
		return api.AgentFileError(api.CodeInvalidPath, "The working directory "+dir+" is not a directory", dir, nil)
	}
	return file.Mkdir(dir, file.DefaultMode)
}

// start runs cmd. A machine that gives the agent no pipe for it is reported as
// a command that failed: a 5xx would have clients send it again and again.
func (a *Agent) start(cmd process.Command) (*process.Job, process.Result, error) {
	j, err := a.jobs.Start(cmd)
	switch {
	case errors.Is(err, process.ErrClosing):
		return nil, process.Result{}, api.AgentError(api.CodeServiceUnavailable, "The sandbox is shutting down")
	case err != nil:
		return nil, notStarted(err), nil
	}
	return j, process.Result{}, nil
}

// notStarted is the result of what the agent itself could not start.
func notStarted(err error) process.Result {
	return process.Result{
		ExitCode: process.ExitNotRun, Status: process.Failed,
		Stderr: fmt.Sprintf("cannot be started: %v\n", err),
	}
}

// run runs cmd to its end. release is owed when the result has been sent.
func (a *Agent) run(ctx context.Context, cmd process.Command) (r process.Result, executionID string, release func(), err error) {
	j, r, err := a.start(cmd)
	if j == nil {
		return r, "", func() {}, err
	}
	return j.Wait(ctx), j.ExecutionID, j.Release, nil
}

// started answers for a job in the background. One that could not be started
// says so at once.
func (a *Agent) started(w http.ResponseWriter, r *http.Request, j *process.Job) {
	now := j.Result()
	out := api.BackgroundResponse{
		Success: true, ProcessID: j.ID, ExecutionID: j.ExecutionID, Status: statusWord(now.Status),
		Name: j.Label.Name, Language: j.Label.Language, Command: j.Label.Line, PID: now.PID,
		StartTime: api.Time{Time: j.Started}, Message: "Started in the background", Timestamp: a.timestamp(),
	}
	if now.PID == 0 && now.Status == process.Failed {
		out.Success, out.Message, out.Stderr, out.ExitCode = false, "Could not be started", now.Stderr, now.ExitCode
	}
	answer(w, r, out)
}

func statusWord(s process.Status) string {
	switch s {
	case process.Running:
		return api.JobRunning
	case process.Completed:
		return api.JobCompleted
	case process.Killed:
		return api.JobKilled
	}
	return api.JobFailed
}
