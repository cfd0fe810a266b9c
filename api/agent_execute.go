package api

// An ExecuteRequest asks the agent to run source code, at once or in the
// background.
type ExecuteRequest struct {
	Language   string   `json:"language"` // default "python"
	Code       *string  `json:"code"`
	Workdir    string   `json:"workdir"`     // default: the template's
	WorkingDir string   `json:"working_dir"` // an older name of Workdir
	Timeout    *Seconds `json:"timeout"`
	Env        EnvVars  `json:"env"`  // for this run only, above everything else
	Name       string   `json:"name"` // of a background job
}

// An ExecuteResponse says how code ended. It is sent with 200 whatever the
// outcome: clients repeat a 5xx, and with it the code.
type ExecuteResponse struct {
	Success       bool    `json:"success"` // the exit code was 0
	Stdout        string  `json:"stdout"`
	Stderr        string  `json:"stderr"`
	ExitCode      int     `json:"exit_code"`      // 128+n for signal n; 124 for a timeout
	ExecutionTime float64 `json:"execution_time"` // seconds
	Language      string  `json:"language"`
	Truncated     bool    `json:"truncated,omitempty"` // ours: output beyond the limit was dropped
	TimedOut      bool    `json:"timed_out,omitempty"` // ours
	ExecutionID   string  `json:"execution_id"`        // ours
	Timestamp     Time    `json:"timestamp"`
}

// A CommandRequest asks the agent to run a program, at once or in the
// background. Command and Args are passed to the kernel as they are; only when
// Args is empty and Command is no program but reads like a line of shell, a
// shell runs it.
type CommandRequest struct {
	Command    *string  `json:"command"`
	Args       []string `json:"args"`
	Workdir    string   `json:"workdir"`
	WorkingDir string   `json:"working_dir"` // an older name of Workdir
	Timeout    *Seconds `json:"timeout"`
	Env        EnvVars  `json:"env"`
	Name       string   `json:"name"` // of a background job
}

// A CommandResponse says how a program ended; with 200 whatever the outcome.
type CommandResponse struct {
	Success       bool    `json:"success"`
	Stdout        string  `json:"stdout"`
	Stderr        string  `json:"stderr"`
	ExitCode      int     `json:"exit_code"`
	ExecutionTime float64 `json:"execution_time"` // seconds
	Command       string  `json:"command"`
	PID           int     `json:"pid"`                 // 0 if it could not be started
	Truncated     bool    `json:"truncated,omitempty"` // ours
	TimedOut      bool    `json:"timed_out,omitempty"` // ours
	ExecutionID   string  `json:"execution_id"`        // ours
	Timestamp     Time    `json:"timestamp"`
}

// A BackgroundResponse says that a job was started. The fields of a finished
// run are there and empty because JavaScript callers read them.
type BackgroundResponse struct {
	Success       bool    `json:"success"`
	ProcessID     string  `json:"process_id"`
	ExecutionID   string  `json:"execution_id"`
	Status        string  `json:"status"`
	Name          string  `json:"name"`
	Language      string  `json:"language,omitempty"`
	Command       string  `json:"command"`
	PID           int     `json:"pid"`
	StartTime     Time    `json:"start_time"`
	Message       string  `json:"message"`
	Stdout        string  `json:"stdout"`
	Stderr        string  `json:"stderr"`
	ExitCode      int     `json:"exit_code"`
	ExecutionTime float64 `json:"execution_time"`
	Timestamp     Time    `json:"timestamp"`
}
