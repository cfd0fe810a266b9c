package guest

import (
	"net/http"

	"github.com/hutch-sh/hutch/api"
)

// desktop answers for a desktop that is not there.
func (a *Agent) desktop(http.ResponseWriter, *http.Request) error {
	return api.DesktopNotAvailable("xvfb", "x11vnc", "xdotool", "openbox")
}

// update refuses: the agent belongs to the host, and lies where nobody in the
// sandbox can write.
func (a *Agent) update(http.ResponseWriter, *http.Request) error {
	return api.AgentError(api.CodeForbidden, "The agent cannot be updated from here: it comes with the server, and new sandboxes have the newest")
}
