package api

// Features say what an agent can do.
type Features struct {
	CodeExecution      bool     `json:"code_execution"`
	FileOperations     bool     `json:"file_operations"`
	TerminalAccess     bool     `json:"terminal_access"`
	WebsocketStreaming bool     `json:"websocket_streaming"`
	RichOutput         bool     `json:"rich_output"`
	BackgroundJobs     bool     `json:"background_jobs"`
	IPythonKernel      bool     `json:"ipython_kernel"`
	SystemMetrics      bool     `json:"system_metrics"`
	Desktop            bool     `json:"desktop"`
	Languages          []string `json:"languages"` // those the template can run; never null
}

// An AgentHealth is the answer to GET /health. Status is "healthy" and nothing else:
// the Python SDK would poll for ever.
type AgentHealth struct {
	Status        string   `json:"status"`
	Agent         string   `json:"agent"`
	Version       string   `json:"version"`
	Uptime        string   `json:"uptime"`
	UptimeSeconds float64  `json:"uptime_seconds"`
	GoVersion     string   `json:"go_version"`
	VMID          string   `json:"vm_id"`
	ActiveStreams int      `json:"active_streams"`
	Features      Features `json:"features"`
	Timestamp     Time     `json:"timestamp"`
}

// An AgentInfo is the answer to GET / and GET /info.
type AgentInfo struct {
	Agent         string            `json:"agent"`
	AgentVersion  string            `json:"agent_version"`
	Version       string            `json:"version"`
	VMID          string            `json:"vm_id"`
	OS            string            `json:"os"`
	Arch          string            `json:"arch"`
	Platform      string            `json:"platform"`
	GoVersion     string            `json:"go_version"`
	Hostname      string            `json:"hostname"`
	VMIP          string            `json:"vm_ip"`
	IP            string            `json:"ip"`
	VMPort        string            `json:"vm_port"`
	Port          string            `json:"port"`
	StartTime     Time              `json:"start_time"`
	Uptime        float64           `json:"uptime"` // seconds
	UptimeSeconds float64           `json:"uptime_seconds"`
	Endpoints     map[string]string `json:"endpoints"`
	Features      Features          `json:"features"`
}

// A Ping is the answer to GET /ping.
type Ping struct {
	Status    string `json:"status"`  // "ok"
	Message   string `json:"message"` // "pong"
	Timestamp Time   `json:"timestamp"`
}
