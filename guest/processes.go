package guest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/process"
)

// killWait bounds a kill; what SIGKILL does not end in that time nothing ends.
const killWait = 15 * time.Second

// listJobs lists the background jobs.
func (a *Agent) listJobs(w http.ResponseWriter, r *http.Request) error {
	jobs := a.jobs.Jobs()
	list := api.JobList{Processes: make([]api.Job, 0, len(jobs)), Timestamp: a.timestamp()}
	all, err := process.All()
	if err != nil {
		return api.AgentInternal("guest.listJobs", err)
	}
	byPID := make(map[int]process.Stat, len(all))
	for _, s := range all {
		byPID[s.PID] = s
	}
	up, total := bootTime(), a.memory().Total
	for _, j := range jobs {
		e := describeJob(j)
		if s, ok := byPID[e.PID]; ok && e.Status == api.JobRunning {
			e.CPUPercent, e.MemoryPercent = cpuPercent(s, up), percent(s.RSS, total)
		}
		list.Processes = append(list.Processes, e)
	}
	list.Count = len(list.Processes)
	answer(w, r, list)
	return nil
}

// describeJob is what clients are told about a job.
func describeJob(j *process.Job) api.Job {
	res := j.Result()
	e := api.Job{
		ProcessID: j.ID, ExecutionID: j.ExecutionID, Name: j.Label.Name, Status: statusWord(res.Status),
		Language: j.Label.Language, Command: j.Label.Line, PID: res.PID,
		StartTime: api.Time{Time: j.Started}, StartedAt: api.Time{Time: j.Started}, Duration: res.Took.Seconds(),
	}
	if res.Status != process.Running {
		e.EndTime, e.ExitCode = &api.Time{Time: j.Started.Add(res.Took)}, &res.ExitCode
	}
	return e
}

// showJob shows one background job and the end of its output.
func (a *Agent) showJob(w http.ResponseWriter, r *http.Request) error {
	j := a.jobs.Find(r.PathValue("id"))
	if j == nil || !j.Background {
		return unknownProcess(r.PathValue("id"))
	}
	res := j.Result()
	answer(w, r, api.JobOutput{
		Job: describeJob(j), Stdout: res.Stdout, Stderr: res.Stderr, Truncated: res.Truncated, Timestamp: a.timestamp(),
	})
	return nil
}

func unknownProcess(id string) error {
	return api.AgentError(api.CodeProcessNotFound, fmt.Sprintf("Process not found: %.80s", id))
}

// kill ends a process and everything it started, and answers when it is gone.
func (a *Agent) kill(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	for _, name := range []string{"process_id", "execution_id", "id", "pid"} {
		if id == "" {
			id = query(r, name)
		}
	}
	if id == "" {
		return api.AgentError(api.CodeMissingParameter, "process_id is needed")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), killWait) // begun is done, whoever still listens
	defer cancel()
	k, err := a.jobs.Kill(ctx, id)
	switch {
	case errors.Is(err, process.ErrUnknown):
		return unknownProcess(id)
	case errors.Is(err, process.ErrProtected):
		return api.AgentError(api.CodeInvalidRequest, "Process "+id+" belongs to the sandbox itself: to end the sandbox, kill the sandbox")
	case err != nil:
		return api.AgentError(api.CodeConflict, fmt.Sprintf("Process %.80s could not be ended: %v", id, err))
	}
	out := api.KillResponse{
		Success: true, Message: "Process killed", PID: k.PID, Status: api.JobKilled, Ended: k.Ended, Timestamp: a.timestamp(),
	}
	if k.Job != nil {
		out.ProcessID, out.ExecutionID = k.Job.ID, k.Job.ExecutionID
		out.Status = statusWord(k.Job.Result().Status)
	}
	if k.Ended == 0 {
		out.Message = "Process had already ended"
	}
	answer(w, r, out)
	return nil
}

// listProcesses lists every process of the guest.
func (a *Agent) listProcesses(w http.ResponseWriter, r *http.Request) error {
	all, err := process.All()
	if err != nil {
		return api.AgentInternal("guest.listProcesses", err)
	}
	jobs := a.jobs.ByTag(all)
	up, total, now := bootTime(), a.memory().Total, a.now()
	list := api.ProcessList{Processes: make([]api.Process, 0, len(all)), Count: len(all), Timestamp: a.timestamp()}
	for _, s := range all {
		started := api.Time{Time: now.Add(s.Started - up)}
		p := api.Process{
			PID: s.PID, PPID: s.PPID, Name: strings.ToValidUTF8(s.Name, "\uFFFD"),
			Status: stateWord(s.State), State: string(s.State), Command: process.CommandLine(s.PID),
			CPUPercent: cpuPercent(s, up), MemoryMB: round2(float64(s.RSS) / (1 << 20)), MemoryPercent: percent(s.RSS, total),
			Threads: s.Threads, StartTime: started, StartedAt: started,
		}
		if p.Command == "" {
			p.Command = p.Name
		}
		if j := jobs[s.PID]; j != nil {
			p.ProcessID, p.ExecutionID, p.Language = j.ID, j.ExecutionID, j.Label.Language
		}
		list.Processes = append(list.Processes, p)
	}
	answer(w, r, list)
	return nil
}

// stateWord says what the kernel's letter for a process's state means. Sleeping
// is running to everybody who is not a kernel.
func stateWord(state byte) string {
	switch state {
	case 'R', 'S', 'D', 'I':
		return "running"
	case 'T', 't':
		return "stopped"
	case 'Z', 'X':
		return "zombie"
	}
	return "unknown"
}

// cpuPercent is how much of one processor a process used in its life.
func cpuPercent(s process.Stat, up time.Duration) float64 {
	life := up - s.Started
	if life <= 0 {
		return 0
	}
	return round2(100 * s.CPU.Seconds() / life.Seconds())
}

func percent(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return round2(100 * float64(part) / float64(whole))
}

func round2(f float64) float64 { return math.Round(f*100) / 100 }

// sessions lists interpreters that live between executions. Every execution
// has a process of its own, so there are none.
func (a *Agent) sessions(w http.ResponseWriter, r *http.Request) error {
	answer(w, r, api.SessionList{Sessions: []api.Session{}, Timestamp: a.timestamp()})
	return nil
}
