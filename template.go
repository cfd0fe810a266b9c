package hutch

import "time"

// A TemplateID names a template for ever. Clients show it as a decimal string.
type TemplateID string

// A Digest names bytes by their SHA-256, as "sha256:<64 hex digits>".
type Digest string

// A Template is a root filesystem prepared once and shared read-only by every
// sandbox made from it.
type Template struct {
	ID          TemplateID
	Org         OrgID // owner; a public template may be used by everyone
	Name        string
	DisplayName string
	Description string
	Category    string
	Language    string
	Icon        string
	Features    []string
	Tags        []string
	Public      bool
	Status      TemplateStatus
	Fault       string // why Status is TemplateFailed

	Image   Digest            // the root filesystem
	Size    int64             // bytes of the root filesystem
	Env     map[string]string // environment beneath the owner's
	Workdir string            // "" means /workspace

	Default, Min, Max Resources

	Created time.Time
	Updated time.Time
}

// A TemplateStatus is a stage in a template's life, in HopX's words.
type TemplateStatus string

// Template stages.
const (
	TemplateBuilding TemplateStatus = "building"
	TemplateActive   TemplateStatus = "active"
	TemplateFailed   TemplateStatus = "failed"
)
