// Package openapi holds the description of the wire in OpenAPI 3.1, written by
// hand in openapi.yaml and held against the server by a test. Fields and routes
// that HopX does not have are marked "x-hutch: true".
package openapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"

	"go.yaml.in/yaml/v3"
)

// YAML is the document.
//
//go:embed openapi.yaml
var YAML []byte

// JSON returns the document in JSON. It never fails for the document that
// passed the tests. The result is shared: do not change it.
var JSON = sync.OnceValues(func() ([]byte, error) {
	var doc any
	if err := yaml.Unmarshal(YAML, &doc); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	return json.Marshal(doc)
})
