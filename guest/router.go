package guest

import (
	"net/http"
	"slices"
	"strings"
)

// A handler answers a request, or returns the error to answer it with; not both.
type handler func(w http.ResponseWriter, r *http.Request) error

// An access says who may call a route.
type access uint8

const (
	forUser   access = iota // with a token of this sandbox
	forAnyone               // with or without, once there is an identity
	forHost                 // checks its own signature, identity or not
)

// A route is one method of one path. A segment in braces matches any one
// segment and becomes the request's path value; a last segment "*" matches any
// rest.
type route struct {
	method  string // "" is any
	path    string
	access  access
	handler handler
}

// A router finds routes. It never redirects: HopX's clients take the body of a
// redirect for their answer.
type router struct {
	exact    map[string]map[string]route // path, method
	patterns []route
	all      []route
}

func newRouter(routes []route) *router {
	rt := &router{exact: map[string]map[string]route{}, all: routes}
	for _, r := range routes {
		if strings.ContainsAny(r.path, "{*") {
			rt.patterns = append(rt.patterns, r)
			continue
		}
		if rt.exact[r.path] == nil {
			rt.exact[r.path] = map[string]route{}
		}
		rt.exact[r.path][r.method] = r
	}
	return rt
}

// cleanPath gives a path the one form routes are written in: one slash between
// segments and none at the end. Dots are left alone: they are nobody's here.
func cleanPath(p string) string {
	segments := strings.FieldsFunc(p, func(c rune) bool { return c == '/' })
	return "/" + strings.Join(segments, "/")
}

// find returns the route for a request. Without one, allowed lists the methods
// its path does have.
func (rt *router) find(method, path string) (found route, values map[string]string, allowed []string) {
	path = cleanPath(path)
	pick := func(r route, v map[string]string) bool {
		if r.method == "" || r.method == method || r.method == http.MethodGet && method == http.MethodHead {
			found, values = r, v
			return true
		}
		allowed = append(allowed, r.method)
		return false
	}
	for _, r := range rt.exact[path] {
		if pick(r, nil) {
			return found, values, nil
		}
	}
	for _, r := range rt.patterns {
		if v, ok := match(r.path, path); ok && pick(r, v) {
			return found, values, nil
		}
	}
	slices.Sort(allowed)
	return route{}, nil, slices.Compact(allowed)
}

// match compares a path with a pattern, segment by segment.
func match(pattern, path string) (map[string]string, bool) {
	var values map[string]string
	for {
		p, prest, pmore := strings.Cut(strings.TrimPrefix(pattern, "/"), "/")
		s, srest, smore := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		switch {
		case p == "*":
			return values, s != ""
		case strings.HasPrefix(p, "{") && s != "":
			if values == nil {
				values = map[string]string{}
			}
			values[strings.Trim(p, "{}")] = s
		case p != s:
			return nil, false
		}
		if pmore != smore {
			return nil, false
		}
		if !pmore {
			return values, true
		}
		pattern, path = prest, srest
	}
}
