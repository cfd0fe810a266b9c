package api

// A Template is what the control plane shows of a template, alone and in lists
// alike. Unlike on a sandbox, organization_id is a string here; the Python
// client insists on both.
type Template struct {
	ID               string            `json:"id"`
	Object           string            `json:"object"` // "template"
	Name             string            `json:"name"`
	DisplayName      string            `json:"display_name"` // never empty
	Description      string            `json:"description"`
	Category         string            `json:"category"`
	Language         string            `json:"language"`
	Icon             string            `json:"icon"`
	DocsURL          *string           `json:"docs_url"` // always null
	DefaultResources TemplateResources `json:"default_resources"`
	MinResources     TemplateResources `json:"min_resources"`
	MaxResources     TemplateResources `json:"max_resources"`
	Features         []string          `json:"features"` // never null
	Tags             []string          `json:"tags"`     // never null
	PopularityScore  int               `json:"popularity_score"`
	IsActive         bool              `json:"is_active"`
	IsPublic         bool              `json:"is_public"`
	Status           string            `json:"status"`
	BuildID          *string           `json:"build_id"`
	OrganizationID   string            `json:"organization_id"`
	CreatedAt        Time              `json:"created_at"`
	UpdatedAt        Time              `json:"updated_at"`
	ErrorMessage     string            `json:"error_message,omitempty"` // with status "failed"
	RequestID        string            `json:"request_id,omitempty"`    // not on the items of a list
}

// TemplateResources are what sandboxes of a template may use. The disk counts
// in GiB here.
type TemplateResources struct {
	VCPU     int `json:"vcpu"`
	MemoryMB int `json:"memory_mb"`
	DiskGB   int `json:"disk_gb"`
}

// A TemplateList is every template its reader may use; there are no pages.
type TemplateList struct {
	Object    string     `json:"object"` // "list"
	Data      []Template `json:"data"`   // never null
	HasMore   bool       `json:"has_more"`
	URL       string     `json:"url"`
	RequestID string     `json:"request_id"`
}

// A DeletedTemplate answers the deletion of a template.
type DeletedTemplate struct {
	ID        string `json:"id"` // as it was named in the request
	Object    string `json:"object"`
	Deleted   bool   `json:"deleted"`
	RequestID string `json:"request_id"`
}
