package control

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	swagger "github.com/swaggest/swgui/v5/static"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api/openapi"
)

// An asset is an answer that is not JSON of ours: the OpenAPI document, or a
// part of the page that shows it. Everything is embedded; nothing is loaded
// from elsewhere.
type asset struct {
	kind   string // its Content-Type
	plain  []byte
	zipped []byte // the same by gzip, or nil
	tag    string // ETag
}

func newAsset(kind string, plain, zipped []byte) asset {
	sum := sha256.Sum256(plain)
	return asset{kind, plain, zipped, `"` + hex.EncodeToString(sum[:8]) + `"`}
}

// docsPolicy lets the page load and call this server and nothing else.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (a asset) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Content-Security-Policy", docsPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // ask again: it is only a 304
	h.Set("ETag", a.tag)
	h.Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("If-None-Match"), a.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	b := a.plain
	if a.zipped != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		b = a.zipped
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	w.Write(b) // the caller may be gone; there is nobody to tell
}

//go:embed docs.html
var docsHTML []byte

//go:embed docs.js
var docsJS []byte

// docs holds the parts of the page by name; "" is the page.
var docs = sync.OnceValues(func() (map[string]asset, error) {
	parts := map[string]asset{
		"":        newAsset("text/html; charset=utf-8", docsHTML, nil),
		"docs.js": newAsset("text/javascript; charset=utf-8", docsJS, nil),
	}
	for name, kind := range map[string]string{
		"swagger-ui-bundle.js": "text/javascript; charset=utf-8",
		"swagger-ui.css":       "text/css; charset=utf-8",
		"favicon-32x32.png":    "image/png",
	} {
		if path.Ext(name) == ".png" {
			b, err := fs.ReadFile(swagger.FS, name)
			if err != nil {
				return nil, err
			}
			parts[name] = newAsset(kind, b, nil)
			continue
		}
		zipped, err := fs.ReadFile(swagger.FS, name+".gz")
		if err != nil {
			return nil, err
		}
		z, err := gzip.NewReader(bytes.NewReader(zipped))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		plain, err := io.ReadAll(z)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		parts[name] = newAsset(kind, plain, zipped)
	}
	return parts, nil
})

func (s *Server) docsPage(*call) (reply, error)   { return docsPart("") }
func (s *Server) docsFile(c *call) (reply, error) { return docsPart(c.PathValue("file")) }

func docsPart(name string) (reply, error) {
	parts, err := docs()
	if err != nil {
		return reply{}, &hutch.Error{Op: "control.docs", Msg: "embedded page", Err: err}
	}
	a, found := parts[name]
	if !found {
		return reply{}, errNoRoute
	}
	return ok(a)
}

var (
	openapiYAML = sync.OnceValue(func() asset { return newAsset("application/yaml", openapi.YAML, nil) })
	openapiJSON = sync.OnceValues(func() (asset, error) {
		b, err := openapi.JSON()
		return newAsset("application/json", b, nil), err
	})
)

func (s *Server) openapiYAML(*call) (reply, error) { return ok(openapiYAML()) }

func (s *Server) openapiJSON(*call) (reply, error) {
	a, err := openapiJSON()
	if err != nil {
		return reply{}, &hutch.Error{Op: "control.openapiJSON", Msg: "embedded document", Err: err}
	}
	return ok(a)
}
