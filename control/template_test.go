package control

import (
	"testing"

	"github.com/hutch-sh/hutch"
)

// The Python client builds its model from list items: one bad item breaks the
// whole list.
func TestTemplates(t *testing.T) {
	w := newWorld(t)
	own := w.put(hutch.Template{Org: hutch.DefaultOrg, Name: "mine", DisplayName: "Mine", Category: "dev", Language: "python",
		Features: []string{"bash"}, Tags: []string{"a", "b"}})
	list := w.want(200, ask{method: "GET", path: "/v1/templates"})
	items := list.body["data"].([]any)
	if len(items) != 2 || list.body["has_more"] != false || list.body["object"] != "list" {
		t.Fatalf("%s", list.Body)
	}
	items = append(items, w.want(200, ask{method: "GET", path: "/v1/templates/mine"}).body, w.want(200, ask{method: "GET", path: "/v1/templates/" + string(own.ID)}).body)
	for _, it := range items {
		it := it.(map[string]any)
		for _, f := range []string{"id", "name", "display_name", "organization_id", "status", "created_at", "updated_at", "category", "language"} {
			if s, ok := it[f].(string); !ok || (s == "" && f != "category" && f != "language") {
				t.Errorf("%v: %s is %v", it["name"], f, it[f])
			}
		}
		for _, f := range []string{"features", "tags"} {
			if _, ok := it[f].([]any); !ok {
				t.Errorf("%v: %s is %v", it["name"], f, it[f])
			}
		}
		if it["is_active"] != true || it["object"] != "template" {
			t.Errorf("%v", it)
		}
		if d := it["default_resources"].(map[string]any); d["vcpu"] != 2.0 || d["memory_mb"] != 2048.0 || d["disk_gb"] != 10.0 {
			t.Errorf("%v", d)
		}
	}
	for q, want := range map[string]int{"?category=dev": 1, "?language=python": 1, "?category=dev&language=go": 0, "?category=": 2, "?x=1": 2} {
		if l := w.want(200, ask{method: "GET", path: "/v1/templates" + q}); len(l.body["data"].([]any)) != want {
			t.Errorf("%s: %s", q, l.Body)
		}
	}
	for _, q := range []string{"?category=%00", "?language=a&language=b", "?language=%ff", "?%zz"} {
		w.want(400, ask{method: "GET", path: "/v1/templates" + q})
	}

	w.want(403, ask{method: "DELETE", path: "/v1/templates/code-interpreter"})
	if out := w.want(200, ask{method: "DELETE", path: "/v1/templates/mine"}); out.body["deleted"] != true {
		t.Errorf("%s", out.Body)
	}
	out := w.want(404, ask{method: "GET", path: "/v1/templates/mine"})
	if out.body["message"] != "Template not found: GET /v1/templates lists what there is" {
		t.Errorf("%s", out.Body)
	}
}

func TestShowTemplate(t *testing.T) {
	a := showTemplate(hutch.Template{ID: "9", Org: 3, Name: "n", Status: hutch.TemplateFailed, Fault: "no such image",
		Default: hutch.Resources{VCPU: 1, MemoryMB: 512, DiskMB: 1500}}, "req_x")
	if a.DisplayName != "n" || a.IsActive || a.ErrorMessage != "no such image" || a.OrganizationID != "3" || a.DefaultResources.DiskGB != 2 ||
		a.Features == nil || a.Tags == nil || a.RequestID != "req_x" {
		t.Errorf("%+v", a)
	}
}
