package api

// Statuses a sandbox may be filtered by. "killed" lists those that ended a
// short while ago; without a filter they are not listed.
var Statuses = []string{"creating", "running", "paused", "stopped", "error", "killed"}

// A Sandbox is what the control plane shows of a sandbox. Python's client is
// strict about the types of half of these fields: ids are strings, but
// organization_id is a number; resources are all there or absent.
type Sandbox struct {
	ID                 string            `json:"id"`
	SandboxID          string            `json:"sandbox_id"` // the same; some clients look here first
	Object             string            `json:"object"`     // "sandbox"
	Status             string            `json:"status"`     // one of [Statuses]
	PublicHost         string            `json:"public_host"`
	DirectURL          *string           `json:"direct_url"`  // always null
	PreviewURL         *string           `json:"preview_url"` // always null; see PreviewURLTemplate
	OrganizationID     int64             `json:"organization_id"`
	NodeID             *string           `json:"node_id"`
	Region             string            `json:"region"`
	TemplateID         string            `json:"template_id"`
	TemplateName       string            `json:"template_name"`
	Resources          Resources         `json:"resources"`
	InternetAccess     bool              `json:"internet_access"`
	LiveMode           bool              `json:"live_mode"`
	TimeoutSeconds     *int64            `json:"timeout_seconds"` // the span last asked for; null: none
	ExpiresAt          Time              `json:"expires_at"`      // null: never
	CreatedAt          Time              `json:"created_at"`
	StartedAt          Time              `json:"started_at"`
	EndAt              Time              `json:"end_at"`
	Metadata           map[string]string `json:"metadata"`             // ours; never null
	OnTimeout          string            `json:"on_timeout"`           // ours: kill, pause or stop
	PreviewAccess      string            `json:"preview_access"`       // ours: public or private
	PreviewURLTemplate string            `json:"preview_url_template"` // ours: replace {port} by a port the sandbox listens on
	Fault              string            `json:"fault,omitempty"`      // ours: what went wrong, with status "error"
	Reason             string            `json:"reason,omitempty"`     // ours: what ended it, with status "killed"
	RequestID          string            `json:"request_id,omitempty"` // not on the items of a list
}

// Resources are what a sandbox may use. Mind the unit of the disk: sandboxes
// count it in MiB and templates in GiB.
type Resources struct {
	VCPU     int `json:"vcpu"`
	MemoryMB int `json:"memory_mb"`
	DiskMB   int `json:"disk_mb"`
}

// A CreatedSandbox answers a create: the only answer but a token refresh that
// carries a token.
type CreatedSandbox struct {
	Sandbox
	AuthToken      string `json:"auth_token"`
	TokenExpiresAt Time   `json:"token_expires_at"`
	Start          string `json:"start"`  // ours: how it was started
	Timing         Timing `json:"timing"` // ours
}

// Timing says where the time of a create went.
type Timing struct {
	TotalMS float64      `json:"total_ms"`
	Steps   []TimingStep `json:"steps"` // in the order they ran; never null
}

// A TimingStep is one timed part of a create.
type TimingStep struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// A SandboxList is one page of sandboxes, newest first. HasMore is never true
// without a NextCursor: the SDKs would read the first page for ever.
type SandboxList struct {
	Object     string    `json:"object"` // "list"
	Data       []Sandbox `json:"data"`   // never null
	HasMore    bool      `json:"has_more"`
	NextCursor *string   `json:"next_cursor"`
	URL        string    `json:"url"`
	RequestID  string    `json:"request_id"`
}

// A SandboxStatus answers the verbs: kill, delete, pause, resume, stop, start.
type SandboxStatus struct {
	ID        string `json:"id"`
	Status    string `json:"status"`
	RequestID string `json:"request_id"`
}

// A SandboxTimeout answers a change of the deadline.
type SandboxTimeout struct {
	ID             string `json:"id"`
	TimeoutSeconds *int64 `json:"timeout_seconds"`
	ExpiresAt      Time   `json:"expires_at"`
	RequestID      string `json:"request_id"`
}

// A SandboxToken answers a token refresh. Both fields are always there: a null
// crashes the Python client.
type SandboxToken struct {
	ID             string `json:"id"`
	AuthToken      string `json:"auth_token"`
	TokenExpiresAt Time   `json:"token_expires_at"`
	RequestID      string `json:"request_id"`
}

// CreateSandbox asks for a sandbox. Exactly one of TemplateID and TemplateName
// is set; each takes a name or an id. It is what clients send; the server reads
// it by rules of its own that are more forgiving about types.
type CreateSandbox struct {
	TemplateID     string            `json:"template_id,omitempty"`
	TemplateName   string            `json:"template_name,omitempty"`
	Region         string            `json:"region,omitempty"`
	TimeoutSeconds int64             `json:"timeout_seconds,omitempty"` // 0: none
	InternetAccess *bool             `json:"internet_access,omitempty"` // nil: true
	EnvVars        map[string]string `json:"env_vars,omitempty"`
	VCPU           int               `json:"vcpu,omitempty"` // ours, as the rest; 0: the template's default
	MemoryMB       int               `json:"memory_mb,omitempty"`
	DiskGB         int               `json:"disk_gb,omitempty"`
	Metadata       map[string]string `json:"metadata,omitempty"`
	OnTimeout      string            `json:"on_timeout,omitempty"`     // "": kill
	PreviewAccess  string            `json:"preview_access,omitempty"` // "": the server's default
}

// SetTimeout asks for a new deadline, counted from now. Zero: none.
type SetTimeout struct {
	TimeoutSeconds int64 `json:"timeout_seconds"`
}
