package control

import (
	"net/http"
	"slices"
	"strings"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
)

// A class says which rate limit a route counts against.
type class uint8

const (
	unlimited class = iota // public routes
	control
	create
)

// A route is one line of the table.
type route struct {
	method  string
	pattern string // of [http.ServeMux], without method or trailing slash
	handle  func(*Server, *call) (reply, error)
	limit   class // unlimited also means public: no credentials are asked for
}

// routes is every route there is. The test of api/openapi holds it against the
// document.
var routes = []route{
	{"GET", "/health", (*Server).health, unlimited},
	{"GET", "/openapi.json", (*Server).openapiJSON, unlimited},
	{"GET", "/openapi.yaml", (*Server).openapiYAML, unlimited},
	{"GET", "/docs", (*Server).docsPage, unlimited},
	{"GET", "/docs/{file}", (*Server).docsFile, unlimited},

	{"POST", "/v1/sandboxes", (*Server).createSandbox, create},
	{"GET", "/v1/sandboxes", (*Server).listSandboxes, control},
	{"GET", "/v1/sandboxes/{id}", (*Server).sandbox, control},
	{"DELETE", "/v1/sandboxes/{id}", (*Server).deleteSandbox, control},
	{"POST", "/v1/sandboxes/{id}/kill", (*Server).killSandbox, control},
	{"POST", "/v1/sandboxes/{id}/pause", (*Server).pauseSandbox, control},
	{"POST", "/v1/sandboxes/{id}/resume", (*Server).resumeSandbox, control},
	{"POST", "/v1/sandboxes/{id}/stop", (*Server).stopSandbox, control},
	{"POST", "/v1/sandboxes/{id}/start", (*Server).startSandbox, control},
	{"PUT", "/v1/sandboxes/{id}/timeout", (*Server).setTimeout, control},
	{"POST", "/v1/sandboxes/{id}/token/refresh", (*Server).refreshToken, control},

	{"GET", "/v1/templates", (*Server).listTemplates, control},
	{"GET", "/v1/templates/{template}", (*Server).template, control},
	{"DELETE", "/v1/templates/{template}", (*Server).deleteTemplate, control},

	{"GET", "/auth/api-keys", (*Server).listKeys, control},
	{"POST", "/auth/api-keys", (*Server).createKey, control},
	{"GET", "/auth/api-keys/{key}", (*Server).key, control},
	{"DELETE", "/auth/api-keys/{key}", (*Server).revokeKey, control},
	{"GET", "/v1/api-keys", (*Server).listKeys, control},
	{"POST", "/v1/api-keys", (*Server).createKey, control},
	{"GET", "/v1/api-keys/{key}", (*Server).key, control},
	{"DELETE", "/v1/api-keys/{key}", (*Server).revokeKey, control},

	{"GET", "/auth/me", (*Server).me, control},
	{"GET", "/v1/me", (*Server).me, control},
	{"GET", "/auth/organization", (*Server).organization, control},
	{"GET", "/v1/organization", (*Server).organization, control},
}

// catchAll is the pattern that everything unknown falls to.
const catchAll = "/"

// newMux registers the table by pattern only: methods are told apart here, so
// that a wrong one is answered in JSON and with Allow.
func (s *Server) newMux() *http.ServeMux {
	mux := http.NewServeMux()
	byPattern := map[string][]route{}
	for _, rt := range routes {
		byPattern[rt.pattern] = append(byPattern[rt.pattern], rt)
	}
	for pattern, rts := range byPattern {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			i := slices.IndexFunc(rts, func(rt route) bool { return answers(rt.method, r.Method) })
			if i < 0 {
				w.Header().Set("Allow", allow(rts))
				s.fail(w, r, methodNotAllowed(r.Method, allow(rts)))
				return
			}
			s.serve(w, r, rts[i])
		})
	}
	mux.HandleFunc(catchAll, func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errNoRoute) })
	return mux
}

// answers reports whether a route of method answers a request of requested:
// its own, and HEAD where it is GET.
func answers(method, requested string) bool {
	return method == requested || (method == "GET" && requested == "HEAD")
}

func allow(rts []route) string {
	var ms []string
	for _, rt := range rts {
		ms = append(ms, rt.method)
		if rt.method == "GET" {
			ms = append(ms, "HEAD")
		}
	}
	slices.Sort(ms)
	return strings.Join(ms, ", ")
}

var errNoRoute = &hutch.Error{
	Kind: hutch.NotFound, Op: "control.serve", Msg: "No such route: GET /openapi.json or /docs lists them",
}

func methodNotAllowed(method, allowed string) error {
	return &hutch.Error{
		Kind: hutch.Invalid, Code: api.CodeMethodNotAllowed, Op: "control.serve",
		Msg:     "This route does not answer " + clip(method) + ": use " + allowed,
		Details: map[string]any{"allow": allowed},
	}
}
