package api

// An EnvRequest is the body of PUT and PATCH /env. PUT replaces, PATCH merges,
// whatever Merge says.
type EnvRequest struct {
	EnvVars EnvVars `json:"env_vars"`
	Merge   bool    `json:"merge"`
}

// An EnvResponse holds the whole environment an execution would see, unmasked:
// clients write back what they read.
type EnvResponse struct {
	EnvVars   map[string]string `json:"env_vars"` // never null
	Count     int               `json:"count"`
	Success   bool              `json:"success"`
	Message   string            `json:"message,omitempty"`
	Timestamp Time              `json:"timestamp"`
}
