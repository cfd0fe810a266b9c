package control

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch/api/openapi"
)

func TestDocs(t *testing.T) {
	w := newWorld(t)
	get := func(path string, h map[string]string) answered {
		t.Helper()
		out := w.raw(ask{method: "GET", path: path, key: "-", header: h})
		if out.Code != 200 {
			t.Fatalf("%s: %d %s", path, out.Code, out.Body)
		}
		return out
	}
	page := get("/docs", nil)
	csp := page.Header().Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "script-src 'self' 'unsafe") || page.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%v", page.Header())
	}
	// Everything it asks for is here.
	refs := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page.Body.String(), -1)
	if len(refs) < 4 {
		t.Fatalf("%q", refs)
	}
	for _, ref := range refs {
		if strings.Contains(ref[1], "//") {
			t.Errorf("loads from elsewhere: %s", ref[1])
			continue
		}
		out := get(ref[1], nil)
		if out.Header().Get("Content-Encoding") != "" || out.Body.Len() < 100 {
			t.Errorf("%s: %v, %d bytes", ref[1], out.Header(), out.Body.Len())
		}
		again := w.raw(ask{method: "GET", path: ref[1], key: "-", header: map[string]string{"If-None-Match": out.Header().Get("ETag")}})
		if again.Code != 304 || again.Body.Len() != 0 {
			t.Errorf("%s: %d again", ref[1], again.Code)
		}
	}
	plain := get("/docs/swagger-ui-bundle.js", nil)
	zipped := get("/docs/swagger-ui-bundle.js", map[string]string{"Accept-Encoding": "br, gzip"})
	z, err := gzip.NewReader(zipped.Body)
	if err != nil || zipped.Header().Get("Content-Encoding") != "gzip" {
		t.Fatal(err, zipped.Header())
	}
	if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, plain.Body.Bytes()) {
		t.Errorf("%d bytes, not %d: %v", len(b), plain.Body.Len(), err)
	}
	for _, f := range []string{"x", "..%2fdocs.go", "embed.go", "swagger-ui.js.gz"} {
		w.want(404, ask{method: "GET", path: "/docs/" + f, key: "-"})
	}

	if y := get("/openapi.yaml", nil); !bytes.Equal(y.Body.Bytes(), openapi.YAML) {
		t.Error("another document")
	}
	var doc map[string]any
	j := get("/openapi.json", nil)
	if err := json.Unmarshal(j.Body.Bytes(), &doc); err != nil || doc["openapi"] != "3.1.0" || len(doc["paths"].(map[string]any)) < 15 {
		t.Errorf("%v %v", err, doc["openapi"])
	}
}
