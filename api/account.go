package api

// A Me answers who the caller is. There are no users yet, only keys: the
// strings that would describe a person are those of the key, or empty. They are
// never null, because the command line of HopX cannot print a null.
type Me struct {
	UserID         string `json:"user_id"`
	KeyID          string `json:"key_id"`
	Email          string `json:"email"`
	FirstName      string `json:"first_name"` // the key's name
	LastName       string `json:"last_name"`
	AvatarURL      string `json:"avatar_url"`
	OrganizationID int64  `json:"organization_id"`
	Role           string `json:"role"`
	RequestID      string `json:"request_id"`
}

// An Organization is the owner of sandboxes, templates and keys.
type Organization struct {
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	Slug      string `json:"slug"`
	PlanID    string `json:"plan_id"`
	CreatedAt string `json:"created_at"` // "" if not known; a null would crash the command line of HopX
	RequestID string `json:"request_id"`
}

// A ServerHealth says that the server answers, and what it is.
type ServerHealth struct {
	Status    string `json:"status"` // "healthy"; clients compare with exactly this
	Message   string `json:"message"`
	Version   string `json:"version"` // of Hutch
	Commit    string `json:"commit"`  // of Hutch
	Runsc     string `json:"runsc"`   // commit of the gVisor that isolates the sandboxes
	RequestID string `json:"request_id"`
}
