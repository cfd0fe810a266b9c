package hutch

import (
	"net/netip"
	"time"
)

// A SandboxID names a sandbox for ever: it is never reused. See [NewSandboxID].
type SandboxID string

// A HostID names a machine that runs sandboxes.
type HostID string

// An OrgID names the owner of sandboxes, templates and keys.
type OrgID int64

// DefaultOrg is the organization that exists from the first start.
const DefaultOrg OrgID = 1

// AgentPort is the TCP port the guest agent listens on. HopX's clients expect
// to find it in host names as "7777-<id>".
const AgentPort = 7777

// A Sandbox is what the control plane knows of one sandbox. Want, Why and Gen
// are written by orders only; Is, Addr and Fault by facts only.
type Sandbox struct {
	ID   SandboxID
	Org  OrgID
	Host HostID
	Spec Spec

	Want State  // the newest order
	Why  Reason // who asked for it
	Gen  uint64 // generation of the newest order

	Is    State      // the newest fact
	Addr  netip.Addr // the guest's address; valid while Is is Running or Paused
	Fault string     // what the host said of a failure; for operators and owners

	Region    string            // the region asked for; echoed, never acted on
	Metadata  map[string]string // flat labels of the owner
	OnTimeout State             // what the deadline orders: Gone, Paused or Stopped
	Timeout   time.Duration     // the span the deadline was set with; 0: none

	Created  time.Time
	Started  time.Time // zero until it ran for the first time
	Deadline time.Time // zero: none
	Ended    time.Time // zero until gone
}

// Alive reports whether the sandbox is neither gone nor ordered to be.
func (s Sandbox) Alive() bool { return s.Want != Gone && s.Is != Gone }

// Status is the word users know for where the sandbox stands.
func (s Sandbox) Status() string {
	switch {
	case s.Is == Gone, s.Want == Gone:
		return "killed"
	case s.Is == Failed:
		return "error"
	default:
		return string(s.Is)
	}
}

// A Spec says how to make a sandbox. It is fixed at create.
type Spec struct {
	Template     TemplateID        `json:"template"`
	TemplateName string            `json:"template_name"`
	Image        Digest            `json:"image"` // the root filesystem, resolved at create
	Resources    Resources         `json:"resources"`
	Env          map[string]string `json:"env,omitempty"`     // the owner's environment at create
	Base         map[string]string `json:"base,omitempty"`    // the template's environment, beneath Env
	Workdir      string            `json:"workdir,omitempty"` // the template's working directory
	Internet     bool              `json:"internet"`          // false: not one packet leaves
	Private      bool              `json:"private,omitempty"` // previews demand the sandbox's token
}

// Resources are what one sandbox may use.
type Resources struct {
	VCPU     int `json:"vcpu"`      // whole cores of CPU time
	MemoryMB int `json:"memory_mb"` // MiB
	DiskMB   int `json:"disk_mb"`   // MiB that may be written above the template
}
