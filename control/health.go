package control

import (
	"github.com/hutch-sh/hutch/api"
)

// health says that the server answers, and which gVisor isolates its sandboxes:
// whoever runs hostile code wants to know how old that is.
func (s *Server) health(c *call) (reply, error) {
	return ok(api.ServerHealth{
		Status: "healthy", Message: "Hutch is answering",
		Version: s.cfg.Version, Commit: s.cfg.Commit, Runsc: s.cfg.Runsc, RequestID: c.id,
	})
}
