package conformance

import (
	"encoding/json"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch/test/e2e/caller"
)

// nobody has the shape of a sandbox's id and is none.
const nobody = "saaaaaaaaaaaaaaaaaaaa"

// curl runs the kill page's own line: POST, one header, nothing else.
func curl(t *testing.T, url, key string) (status string, body map[string]any) {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("SKIP: curl is not installed")
	}
	args := []string{"-sS", "--max-time", "30", "-w", "\n%{http_code}", "-X", "POST", url}
	if key != "" {
		args = append(args, "-H", "Authorization: Bearer "+key)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("curl: %v: %s", err, out)
	}
	i := strings.LastIndexByte(string(out), '\n')
	if err := json.Unmarshal(out[:i], &body); err != nil {
		t.Fatalf("the answer is not a JSON object: %s", out)
	}
	return string(out[i+1:]), body
}

func keys(m map[string]any) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }

func TestKillPage(t *testing.T) {
	who := target(t)
	kill := func(id string) string { return who.URL + "/v1/sandboxes/" + id + "/kill" }

	t.Run("200", func(t *testing.T) {
		sb := made(t, who, nil)
		status, body := curl(t, kill(sb.ID), who.Key)
		if status != "200" || keys(body) != "id request_id status" {
			t.Fatalf("%s %v", status, body)
		}
		if body["id"] != sb.ID || body["status"] != "killed" || body["request_id"] == "" {
			t.Errorf("%v", body)
		}
		if a := must[caller.Answer](t)(sb.Get(t.Context())); a.Status != http.StatusNotFound {
			t.Errorf("after the kill: %s", a)
		}
		t.Run("again by its owner", func(t *testing.T) {
			status, body := curl(t, kill(sb.ID), who.Key)
			if status != "200" || body["id"] != sb.ID || body["status"] != "killed" {
				t.Errorf("%s %v", status, body)
			}
		})
	})

	notFound := func(t *testing.T, status string, body map[string]any) {
		t.Helper()
		if status != "404" || body["error"] != "Sandbox not found" || body["code"] != "RESOURCE_NOT_FOUND" {
			t.Errorf("%s %v", status, body)
		}
		if id, _ := body["request_id"].(string); id == "" {
			t.Errorf("no request id: %v", body)
		}
	}
	for name, id := range map[string]string{
		"an id of nothing":      nobody,
		"a vendor's id":         "1763382095i648uu1o",
		"short":                 "x",
		"upper case":            strings.ToUpper(nobody),
		"a name":                "base",
		"dots, escaped":         "%2e%2e",
		"a slash, escaped":      "a%2Fb",
		"a NUL, escaped":        "a%00b",
		"not UTF-8, escaped":    "%ff%fe",
		"very long":             strings.Repeat("s", 4000),
		"something like SQL":    "s'%20OR%20'1'='1",
		"something like a path": "..%2F..%2Fetc%2Fpasswd",
	} {
		t.Run("404/"+name, func(t *testing.T) {
			status, body := curl(t, kill(id), who.Key)
			notFound(t, status, body)
		})
	}

	t.Run("401", func(t *testing.T) {
		sb := made(t, who, nil)
		for name, key := range map[string]string{
			"without a key":         "",
			"a wrong key":           "hopx_live_000000000000." + strings.Repeat("A", 43),
			"the key's first half":  strings.SplitAfter(who.Key, ".")[0],
			"the key and more":      who.Key + "A",
			"the sandbox's own":     sb.Token,
			"not the shape of keys": "nonsense",
		} {
			t.Run(name, func(t *testing.T) {
				for _, id := range []string{sb.ID, nobody} {
					status, body := curl(t, kill(id), key)
					if status != "401" {
						t.Errorf("%s %v", status, body)
					}
					if text, _ := body["error"].(string); !strings.Contains(strings.ToLower(text), "authentication") {
						t.Errorf("does not say authentication: %v", body)
					}
				}
			})
		}
		if a := must[caller.Answer](t)(sb.Get(t.Context())); a.Status != http.StatusOK {
			t.Errorf("a refused kill killed: %s", a)
		}
	})

	t.Run("404/of another organization", func(t *testing.T) {
		other := stranger(t)
		sb := made(t, who, nil)
		status, body := curl(t, kill(sb.ID), other.Key)
		notFound(t, status, body)
		if _, ok := body["details"].(map[string]any)["reason"]; ok {
			t.Errorf("tells a stranger why: %v", body)
		}
		if a := must[caller.Answer](t)(sb.Get(t.Context())); a.Status != http.StatusOK {
			t.Errorf("a stranger's kill killed: %s", a)
		}
		if _, err := sb.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		status, body = curl(t, kill(sb.ID), other.Key)
		notFound(t, status, body)
	})
}

// TestOtherOrganization walks every route that names a sandbox: a stranger
// learns nothing from any of them, not even that the id exists.
func TestOtherOrganization(t *testing.T) {
	who, other := target(t), stranger(t)
	sb := made(t, who, nil)
	for _, r := range sandboxRoutes {
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			of := func(id string) caller.Answer {
				return must[caller.Answer](t)(other.Do(t.Context(), r.method, strings.ReplaceAll(r.path, "{id}", id), r.body))
			}
			theirs, nobodys := of(sb.ID), of(nobody)
			envelope(t, theirs, http.StatusNotFound, "RESOURCE_NOT_FOUND")
			if a, b := theirs.Text("message"), nobodys.Text("message"); a != b {
				t.Errorf("%q of a stranger's, %q of nobody's", a, b)
			}
		})
	}
	ids := must[[]string](t)(other.List(t.Context(), ""))
	if slices.Contains(ids, sb.ID) {
		t.Error("a stranger's list has it")
	}
	if a := must[caller.Answer](t)(sb.Get(t.Context())); a.Text("status") != "running" {
		t.Errorf("it was touched: %s", a)
	}
}

type route struct {
	method, path string
	body         any
}

// otherRoutes demand a key and name no sandbox.
var otherRoutes = []route{
	{"GET", "/v1/sandboxes", nil},
	{"POST", "/v1/sandboxes", map[string]any{"template_name": "base"}},
	{"GET", "/v1/templates", nil},
	{"GET", "/v1/templates/base", nil},
	{"DELETE", "/v1/templates/base", nil},
	{"GET", "/auth/api-keys", nil},
	{"POST", "/auth/api-keys", map[string]any{"name": "n", "expires_in": "never"}},
}

// sandboxRoutes are all routes that name one sandbox.
var sandboxRoutes = []route{
	{"GET", "/v1/sandboxes/{id}", nil},
	{"DELETE", "/v1/sandboxes/{id}", nil},
	{"POST", "/v1/sandboxes/{id}/kill", nil},
	{"POST", "/v1/sandboxes/{id}/pause", nil},
	{"POST", "/v1/sandboxes/{id}/resume", nil},
	{"POST", "/v1/sandboxes/{id}/stop", nil},
	{"POST", "/v1/sandboxes/{id}/start", nil},
	{"PUT", "/v1/sandboxes/{id}/timeout", map[string]any{"timeout_seconds": 60}},
	{"POST", "/v1/sandboxes/{id}/token/refresh", nil},
}

// TestRoutes checks what holds for every route: no key, no entry; a wrong
// method is a 405 that says which; the path may have spare slashes.
func TestRoutes(t *testing.T) {
	who := target(t)
	sb := made(t, who, nil)
	without := who
	without.Key = ""
	for _, r := range slices.Concat(sandboxRoutes, otherRoutes) {
		path := strings.ReplaceAll(r.path, "{id}", sb.ID)
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			envelope(t, must[caller.Answer](t)(without.Do(t.Context(), r.method, path, r.body)), http.StatusUnauthorized, "AUTHENTICATION_REQUIRED")
		})
	}
	for _, path := range []string{"//v1/sandboxes/" + sb.ID, "/v1//sandboxes/" + sb.ID, "/v1/sandboxes/" + sb.ID + "/"} {
		t.Run("served as it is: "+strings.ReplaceAll(path, sb.ID, "{id}"), func(t *testing.T) {
			a := must[caller.Answer](t)(who.Do(t.Context(), http.MethodGet, path, nil))
			if a.Status != http.StatusOK || a.Text("id") != sb.ID {
				t.Error(a)
			}
		})
	}
	t.Run("either header carries the key", func(t *testing.T) {
		bearer := who
		bearer.Bearer = true
		for _, c := range []caller.Caller{who, bearer} {
			if a := must[caller.Answer](t)(c.Do(t.Context(), http.MethodGet, "/v1/sandboxes/"+sb.ID, nil)); a.Status != http.StatusOK {
				t.Error(a)
			}
		}
	})
	t.Run("the Python SDK gets its own shape", func(t *testing.T) {
		python := who
		python.Agent = "hopx-python/0.1.0"
		a := must[caller.Answer](t)(python.Do(t.Context(), http.MethodGet, "/v1/sandboxes/"+nobody, nil))
		if a.Status != http.StatusNotFound || a.Text("error.code") != "RESOURCE_NOT_FOUND" || a.Text("error.message") == "" || a.Text("error.request_id") == "" {
			t.Error(a)
		}
	})
	for _, c := range []struct{ method, path string }{
		{"PATCH", "/v1/sandboxes"}, {"PUT", "/v1/sandboxes/" + sb.ID}, {"GET", "/v1/sandboxes/" + sb.ID + "/kill"}, {"GET", "/v1/sandboxes/" + sb.ID + "/timeout"},
	} {
		t.Run("405 "+c.method+" "+strings.ReplaceAll(c.path, sb.ID, "{id}"), func(t *testing.T) {
			a := must[caller.Answer](t)(who.Do(t.Context(), c.method, c.path, nil))
			envelope(t, a, http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED")
			if a.Header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
		})
	}
	if a := must[caller.Answer](t)(sb.Get(t.Context())); a.Text("status") != "running" {
		t.Errorf("it was touched: %s", a)
	}
}
