package gateway

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hutch-sh/hutch"
)

// hopxSuffix begins the path of previews that HopX's SDKs make up: their
// pattern wants ".vms.hopx.dev" somewhere behind the host and finds it here.
const hopxSuffix = "/p.vms.hopx.dev"

const (
	pathForm  = "/sandboxes/"
	portsWord = "ports"
)

// A form is a way to name a sandbox.
type form uint8

const (
	byToken form = iota // the token says which
	byHost              // <port>-<id>.<region>.<domain>
	byPath              // /sandboxes/<id>/ports/<port>/…
)

// A target is where a request wants to go.
type target struct {
	id     hutch.SandboxID
	port   uint16
	form   form
	path   string // escaped, as the guest will see it
	prefix string // what was cut off the path in the path form, without a slash at the end
	bare   bool   // path form: nothing came after the port, not even a slash
}

var errNoSuchAddress = &hutch.Error{Kind: hutch.NotFound, Code: CodeSandboxNotFound, Op: "gateway", Msg: "No sandbox has this address: sandbox not found"}

// locate reads the target from the host, then from the path. named is false if
// neither names one; the token may still. An error is only returned with named:
// the address is meant for the gateway and wrong.
func (g *Gateway) locate(r *http.Request) (t target, named bool, err error) {
	path := r.URL.EscapedPath()
	if label, region, ok := g.splitHost(r.Host); ok {
		t.form = byHost
		t.id, t.port, ok = parseName(label)
		if !ok || region != g.cfg.Region {
			return t, true, errNoSuchAddress
		}
		t.path = path
		if rest, ok := strings.CutPrefix(path, hopxSuffix); ok && (rest == "" || rest[0] == '/') {
			t.path = "/" + strings.TrimPrefix(rest, "/")
		}
		return t, true, nil
	}
	if rest, ok := strings.CutPrefix(path, pathForm); ok {
		// At most four parts: the rest of the path is the guest's.
		part := strings.SplitN(rest, "/", 4)
		if len(part) < 3 || part[1] != portsWord {
			return t, false, nil
		}
		t.form, t.id = byPath, hutch.SandboxID(part[0])
		port, ok := parsePort(part[2])
		if !ok || !t.id.Valid() {
			return t, true, errNoSuchAddress
		}
		t.port = port
		t.prefix = pathForm + part[0] + "/" + portsWord + "/" + part[2]
		t.path, t.bare = "/", len(part) == 3
		if !t.bare {
			t.path = "/" + part[3]
		}
		return t, true, nil
	}
	return target{form: byToken, port: hutch.AgentPort, path: path}, false, nil
}

// splitHost cuts a host below the domain into its first label and the region.
// One label below the domain may be the control plane's own name; everything
// deeper is the gateway's, well-formed or not.
func (g *Gateway) splitHost(host string) (label, region string, ok bool) {
	if g.cfg.Domain == "" {
		return "", "", false
	}
	left, ok := strings.CutSuffix(normalHost(host), "."+g.cfg.Domain)
	if !ok {
		return "", "", false
	}
	return strings.Cut(left, ".")
}

// parseName reads "<port>-<id>" or "<id>", which is the agent.
func parseName(label string) (hutch.SandboxID, uint16, bool) {
	port := uint16(hutch.AgentPort)
	if num, rest, ok := strings.Cut(label, "-"); ok {
		if port, ok = parsePort(num); !ok {
			return "", 0, false
		}
		label = rest
	}
	id := hutch.SandboxID(label)
	return id, port, id.Valid()
}

// parsePort reads a port in its only spelling.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, false
	}
	return uint16(n), true
}

// normalHost returns host in lower case, without port and without the dot of
// the root.
func normalHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// allowHost refuses hosts that this server does not answer to.
func (g *Gateway) allowHost(host string) error {
	if len(g.cfg.Hosts) == 0 {
		return nil
	}
	host = strings.Trim(normalHost(host), "[]")
	if slices.ContainsFunc(g.cfg.Hosts, func(a string) bool {
		if below, ok := strings.CutPrefix(a, "*"); ok {
			return strings.HasPrefix(below, ".") && strings.HasSuffix(host, strings.ToLower(below))
		}
		return strings.EqualFold(a, host)
	}) {
		return nil
	}
	return &hutch.Error{Kind: hutch.Forbidden, Op: "gateway", Msg: "This server does not answer to this Host"}
}
