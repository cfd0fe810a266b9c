package guest

import (
	"encoding/json"
	"net/http"

	"github.com/hutch-sh/hutch/api"
)

// showEnv sends the environment an execution would have.
func (a *Agent) showEnv(w http.ResponseWriter, r *http.Request) error {
	a.answerEnv(w, r, "")
	return nil
}

// replaceEnv replaces what was set before.
func (a *Agent) replaceEnv(w http.ResponseWriter, r *http.Request) error {
	vars, err := a.envVars(w, r)
	if err != nil {
		return err
	}
	set := make(map[string]string, len(vars))
	for k, v := range vars {
		if v != nil {
			set[k] = *v
		}
	}
	if err := a.env.Replace(set); err != nil {
		return api.AgentError(api.CodeInvalidRequest, err.Error())
	}
	return a.envChanged(w, r, "Environment variables replaced")
}

// mergeEnv adds to what was set before. A null removes.
func (a *Agent) mergeEnv(w http.ResponseWriter, r *http.Request) error {
	vars, err := a.envVars(w, r)
	if err != nil {
		return err
	}
	if err := a.env.Merge(vars); err != nil {
		return api.AgentError(api.CodeInvalidRequest, err.Error())
	}
	return a.envChanged(w, r, "Environment variables updated")
}

// clearEnv removes what was set, at create or later.
func (a *Agent) clearEnv(w http.ResponseWriter, r *http.Request) error {
	if err := a.env.Clear(); err != nil {
		return api.AgentInternal("guest.clearEnv", err)
	}
	return a.envChanged(w, r, "Environment variables cleared")
}

func (a *Agent) envVars(w http.ResponseWriter, r *http.Request) (api.EnvVars, error) {
	var req api.EnvRequest
	if err := a.decode(w, r, &req); err != nil {
		return nil, err
	}
	if req.EnvVars == nil {
		return nil, api.AgentError(api.CodeMissingParameter, "env_vars is needed")
	}
	return req.EnvVars, nil
}

// envChanged has the change survive the agent, and answers.
func (a *Agent) envChanged(w http.ResponseWriter, r *http.Request, msg string) error {
	if err := a.keepEnv(); err != nil {
		a.log.Error("init does not keep the environment", "error", err)
	}
	a.answerEnv(w, r, msg)
	return nil
}

func (a *Agent) keepEnv() error {
	a.keeping.Lock()
	defer a.keeping.Unlock()
	b, err := json.Marshal(a.env.Save())
	if err != nil {
		return err
	}
	return a.cfg.Keep(keptEnv, b)
}

func (a *Agent) answerEnv(w http.ResponseWriter, r *http.Request, msg string) {
	all := a.env.All()
	answer(w, r, api.EnvResponse{EnvVars: all, Count: len(all), Success: true, Message: msg, Timestamp: a.timestamp()})
}
