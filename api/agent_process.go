package api

// Statuses of a job.
const (
	JobRunning   = "running"
	JobCompleted = "completed" // ended with exit code 0
	JobFailed    = "failed"    // ended with another one, or could not be started
	JobKilled    = "killed"    // ended by a kill or at its timeout
)

// A Job is one background execution.
type Job struct {
	ProcessID     string  `json:"process_id"`
	ExecutionID   string  `json:"execution_id"`
	Name          string  `json:"name"`
	Status        string  `json:"status"`
	Language      string  `json:"language"`
	Command       string  `json:"command"`
	PID           int     `json:"pid"`
	StartTime     Time    `json:"start_time"`
	StartedAt     Time    `json:"started_at"` // the same
	EndTime       *Time   `json:"end_time,omitempty"`
	ExitCode      *int    `json:"exit_code,omitempty"`
	Duration      float64 `json:"duration"` // seconds
	CPUPercent    float64 `json:"cpu_percent"`
	MemoryPercent float64 `json:"memory_percent"`
}

// A JobList is the answer to GET /execute/processes.
type JobList struct {
	Processes []Job `json:"processes"` // oldest first; never null
	Count     int   `json:"count"`
	Timestamp Time  `json:"timestamp"`
}

// A JobOutput is one background job with the end of what it wrote: an addition
// of ours.
type JobOutput struct {
	Job
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
	Truncated bool   `json:"truncated,omitempty"` // earlier output was dropped
	Timestamp Time   `json:"timestamp"`
}

// A Process is any process of the guest. Those of jobs carry the job's ids.
type Process struct {
	PID           int     `json:"pid"`
	PPID          int     `json:"ppid"`
	Name          string  `json:"name"`
	Status        string  `json:"status"`
	State         string  `json:"state"` // the kernel's letter
	Command       string  `json:"command"`
	CPUPercent    float64 `json:"cpu_percent"`
	MemoryMB      float64 `json:"memory_mb"`
	MemoryPercent float64 `json:"memory_percent"`
	Threads       int     `json:"threads"`
	ProcessID     string  `json:"process_id,omitempty"`
	ExecutionID   string  `json:"execution_id,omitempty"`
	Language      string  `json:"language,omitempty"`
	StartTime     Time    `json:"start_time"`
	StartedAt     Time    `json:"started_at"`
}

// A ProcessList is the answer to GET /processes.
type ProcessList struct {
	Processes []Process `json:"processes"` // by pid; never null
	Count     int       `json:"count"`
	Timestamp Time      `json:"timestamp"`
}

// A KillResponse says that a process and everything it started are gone.
type KillResponse struct {
	Success     bool   `json:"success"`
	Message     string `json:"message"`
	ProcessID   string `json:"process_id,omitempty"`
	ExecutionID string `json:"execution_id,omitempty"`
	PID         int    `json:"pid"`
	Status      string `json:"status"`
	Ended       int    `json:"ended"` // how many processes this call ended
	Timestamp   Time   `json:"timestamp"`
}

// A ShutdownResponse tells the host how many processes a shutdown ended.
type ShutdownResponse struct {
	Ended int `json:"ended"`
}

// An IdentityResponse tells the host that the agent serves the sandbox.
// Warnings name what could not be set up; the sandbox works without.
type IdentityResponse struct {
	SandboxID string   `json:"sandbox_id"`
	Status    string   `json:"status"` // "ready"
	Warnings  []string `json:"warnings"`
	TookMS    float64  `json:"took_ms"`
}

// A SessionList is the answer to GET /jupyter/sessions.
type SessionList struct {
	Sessions  []Session `json:"sessions"` // never null
	Count     int       `json:"count"`
	Timestamp Time      `json:"timestamp"`
}

// A Session is one interpreter that lives between executions.
type Session struct {
	KernelID       string `json:"kernel_id"`
	Language       string `json:"language"`
	ExecutionState string `json:"execution_state"` // idle or busy
	Connections    int    `json:"connections"`
	LastActivity   Time   `json:"last_activity"`
}
