package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api/openapi"
)

// A document is the OpenAPI document, made strict: a field of an answer that it
// does not name is an error.
type document struct {
	*openapi3.T
	compiler *jsonschema.Compiler

	mu      sync.Mutex
	schemas map[string]*jsonschema.Schema // by reference
	seen    map[string]bool               // "GET /health 200": answers that were held against it
}

var loadDocument = sync.OnceValues(func() (*document, error) {
	loader := openapi3.NewLoader()
	spec, err := loader.LoadFromData(openapi.YAML)
	if err != nil {
		return nil, err
	}
	if err := spec.Validate(loader.Context); err != nil {
		return nil, err
	}
	b, err := openapi.JSON()
	if err != nil {
		return nil, err
	}
	raw, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	schemas := raw.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
	for _, s := range schemas {
		strict(s, schemas, true) // as what they are; where they are used decides
	}
	d := &document{T: spec, compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}, seen: map[string]bool{}}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	return d, d.compiler.AddResource("https://hutch.test/openapi", raw)
})

// strict forbids unnamed fields in every object below node but those that are
// combined with others by allOf.
func strict(node any, schemas map[string]any, combined bool) {
	switch node := node.(type) {
	case map[string]any:
		named := node
		if ref, ok := node["$ref"].(string); ok {
			named, _ = schemas[ref[strings.LastIndex(ref, "/")+1:]].(map[string]any)
		}
		_, open := named["additionalProperties"]
		if (named["properties"] != nil || named["allOf"] != nil) && !open && !combined {
			node["unevaluatedProperties"] = false
		}
		for k, v := range node {
			switch k {
			case "properties", "$defs":
				for _, p := range v.(map[string]any) {
					strict(p, schemas, false)
				}
			case "items", "oneOf", "anyOf", "additionalProperties":
				strict(v, schemas, false)
			case "allOf":
				strict(v, schemas, true)
			}
		}
	case []any:
		for _, v := range node {
			strict(v, schemas, combined)
		}
	}
}

// schema returns what ref refers to, strictly.
func (d *document) schema(ref string) (*jsonschema.Schema, error) {
	if s, ok := d.schemas[ref]; ok {
		return s, nil
	}
	url := "https://hutch.test/strict/" + strconv.Itoa(len(d.schemas))
	err := d.compiler.AddResource(url, map[string]any{"$ref": "https://hutch.test/openapi" + ref, "unevaluatedProperties": false})
	if err != nil {
		return nil, err
	}
	s, err := d.compiler.Compile(url)
	d.schemas[ref] = s
	return s, err
}

// check holds an answer against the document.
func (d *document) check(method, pattern string, status int, h http.Header, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	ref := "#/components/schemas/Error"
	item := d.Paths.Value(pattern)
	if method == "HEAD" {
		method = "GET"
		body = nil
	}
	if item != nil && item.GetOperation(method) != nil && status != http.StatusNotModified {
		res := item.GetOperation(method).Responses.Status(status)
		if res == nil {
			return errors.New("the document has no such status")
		}
		for name, head := range res.Value.Headers {
			v := h.Get(name)
			sch := head.Value.Schema.Value
			if sch.Type.Is("integer") {
				if _, err := strconv.ParseUint(v, 10, 63); err != nil {
					return fmt.Errorf("header %s is %q", name, v)
				}
			} else if !regexp.MustCompile(sch.Pattern).MatchString(v) {
				return fmt.Errorf("header %s is %q", name, v)
			}
		}
		kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
		media := res.Value.Content.Get(kind)
		if media == nil {
			return fmt.Errorf("the document has no %q here", kind)
		}
		d.seen[fmt.Sprint(method, " ", pattern, " ", status)] = true
		if kind != "application/json" || media.Schema.Ref == "" {
			return nil
		}
		ref = media.Schema.Ref
	}
	if body == nil {
		return nil
	}
	s, err := d.schema(ref)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// A route that is not documented, or documented and not there, is a lie.
func TestDocumentMatchesRoutes(t *testing.T) {
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	var have, told []string
	for _, rt := range routes {
		have = append(have, rt.method+" "+rt.pattern)
		op := d.Paths.Value(rt.pattern)
		if op == nil || op.GetOperation(rt.method) == nil {
			continue // said below
		}
		sec := op.GetOperation(rt.method).Security
		if isPublic := sec != nil && len(*sec) == 0; isPublic != (rt.limit == unlimited) {
			t.Errorf("%s %s: documented as public: %v", rt.method, rt.pattern, isPublic)
		}
		for name := range fieldsOf(rt.pattern) {
			params := append(slices.Clone(op.Parameters), op.GetOperation(rt.method).Parameters...)
			if params.GetByInAndName("path", name) == nil {
				t.Errorf("%s %s: {%s} is not documented", rt.method, rt.pattern, name)
			}
		}
	}
	for path, item := range d.Paths.Map() {
		for method := range item.Operations() {
			told = append(told, method+" "+path)
		}
	}
	slices.Sort(have)
	slices.Sort(told)
	if !slices.Equal(have, told) {
		t.Errorf("routes  %q\ndocument %q", have, told)
	}
}

func fieldsOf(pattern string) map[string]bool {
	m := map[string]bool{}
	for _, f := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(pattern, -1) {
		m[f[1]] = true
	}
	return m
}

// The validator itself must see what is wrong: otherwise everything passes.
func TestDocumentIsStrict(t *testing.T) {
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"req_aaaaaaaaaaaaaaaa"}}
	good := map[string]any{"status": "healthy", "message": "", "version": "", "commit": "", "runsc": "", "request_id": "req_aaaaaaaaaaaaaaaa"}
	try := func(change func(map[string]any)) error {
		m := maps.Clone(good)
		change(m)
		b, _ := json.Marshal(m)
		return d.check("GET", "/health", 200, h, b)
	}
	if err := try(func(map[string]any) {}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(map[string]any){
		"a field too many": func(m map[string]any) { m["x"] = 1 },
		"one too few":      func(m map[string]any) { delete(m, "runsc") },
		"a wrong type":     func(m map[string]any) { m["version"] = 1 },
		"a null":           func(m map[string]any) { m["version"] = nil },
		"a wrong word":     func(m map[string]any) { m["status"] = "ok" },
		"a wrong id":       func(m map[string]any) { m["request_id"] = "x" },
	} {
		if try(change) == nil {
			t.Errorf("%s passed", name)
		}
	}
	w := newWorld(t)
	out := w.want(201, ask{method: "POST", path: "/v1/sandboxes", body: `{"template_id":1}`})
	counted := out.Header()
	for name, change := range map[string]func(map[string]any){
		"deep":     func(m map[string]any) { m["resources"].(map[string]any)["x"] = 1 },
		"combined": func(m map[string]any) { m["x"] = 1 },
		"a time":   func(m map[string]any) { m["created_at"] = "2026-01-01T00:00:00Z" },
		"a label":  func(m map[string]any) { m["metadata"] = map[string]any{"a": 1} },
		"missing":  func(m map[string]any) { delete(m, "auth_token") },
	} {
		var m map[string]any
		if err := json.Unmarshal(out.Body.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b, _ := json.Marshal(m)
		if d.check("POST", "/v1/sandboxes", 201, counted, b) == nil {
			t.Errorf("create: %s passed", name)
		}
	}
	if d.check("GET", "/health", 418, h, nil) == nil || d.check("GET", "/health", 200, http.Header{"Content-Type": {"application/json"}}, []byte("{}")) == nil {
		t.Error("a wrong status or a missing header passed")
	}
}

// Every answer that the document promises is given and has the promised shape.
// (That every other answer of every other test has it is checked by [world.raw].)
func TestEveryDocumentedAnswer(t *testing.T) {
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	body := func(rt route) string {
		return map[string]string{
			"POST /v1/sandboxes":             `{"template_name":"code-interpreter","timeout_seconds":60}`,
			"PUT /v1/sandboxes/{id}/timeout": `{"timeout_seconds":60}`,
			"POST /v1/api-keys":              `{"name":"x"}`,
			"POST /auth/api-keys":            `{"name":"x","expires_in":"1month"}`,
		}[rt.method+" "+rt.pattern]
	}
	// ready makes what the route needs to succeed and returns its request.
	ready := func(rt route) ask {
		values := map[string]string{"file": "swagger-ui.css"}
		for f := range fieldsOf(rt.pattern) {
			switch f {
			case "id":
				values[f] = w.create()
				if strings.HasSuffix(rt.pattern, "/start") {
					w.want(200, ask{method: "POST", path: "/v1/sandboxes/" + values[f] + "/stop"})
				}
			case "template":
				w.put(hutch.Template{Org: hutch.DefaultOrg, Name: "mine"})
				values[f] = "mine"
			case "key":
				values[f] = w.mint(hutch.DefaultOrg, w.now().Add(time.Hour))[10:22]
			}
		}
		return ask{method: rt.method, path: fill(rt.pattern, values), body: body(rt)}
	}
	inject := func(err error) func() {
		for _, m := range []string{"Create", "Sandbox", "List", "Kill", "Delete", "Pause", "Resume", "Stop", "Start", "SetTimeout", "Token"} {
			w.fake.fail[m] = err
		}
		return func() { clear(w.fake.fail) }
	}
	usesFake := func(rt route) bool { return strings.HasPrefix(rt.pattern, "/v1/sandboxes") }

	for _, rt := range routes {
		name := rt.method + " " + rt.pattern
		for status := range d.Paths.Value(rt.pattern).GetOperation(rt.method).Responses.Map() {
			code, err := strconv.Atoi(status)
			if err != nil {
				t.Fatal(err)
			}
			a := ready(rt)
			undo := func() {}
			switch code {
			case 400:
				a.body = "{"
				a.path += "?limit=x&grace=x&%zz"
			case 401:
				a.key = "-"
			case 413:
				a.body = strings.Repeat("x", maxBody+1)
			case 404:
				a.path = fill(rt.pattern, map[string]string{"id": string(hutch.NewSandboxID()), "template": "absent", "key": "absent", "file": "absent"})
				if rt.limit == create {
					a.body = `{"template_name":"absent"}`
				}
			case 403:
				switch {
				case strings.Contains(rt.pattern, "template"):
					a.path = "/v1/templates/code-interpreter"
				case strings.Contains(rt.pattern, "api-keys"):
					undo = w.fillKeys()
				default:
					undo = inject(&hutch.Error{Kind: hutch.Exhausted, Code: "SANDBOX_LIMIT_REACHED", Msg: "The limit is reached"})
				}
			case 409:
				if strings.Contains(rt.pattern, "template") {
					sb := hutch.Sandbox{
						ID: hutch.NewSandboxID(), Org: hutch.DefaultOrg, Host: "h", Created: w.now(), OnTimeout: hutch.Gone,
						Spec: hutch.Spec{Template: w.put(hutch.Template{Org: hutch.DefaultOrg, Name: "mine"}).ID, TemplateName: "mine"},
					}
					if err := w.db.Insert(t.Context(), sb, nil); err != nil {
						t.Fatal(err)
					}
					undo = func() {
						if _, err := w.db.Record(t.Context(), hutch.Fact{ID: sb.ID, Gen: 1, Is: hutch.Gone, At: w.now()}); err != nil {
							t.Fatal(err)
						}
					}
					break
				}
				undo = inject(&hutch.Error{Kind: hutch.Conflict, Msg: "The sandbox is stopped"})
			case 402:
				undo = inject(&hutch.Error{Kind: hutch.Unpaid})
			case 504:
				undo = inject(&hutch.Error{Kind: hutch.Timeout})
			case 429:
				undo = w.exhaust()
			case 500, 503:
				if !usesFake(rt) {
					continue // only a broken store or a broken build gives these: below
				}
				undo = inject(map[int]error{500: errors.New("x"), 503: &hutch.Error{Kind: hutch.Unavailable}}[code])
			}
			out := w.raw(a)
			undo()
			if out.Code != code {
				t.Errorf("%s: %d, not %d: %s", name, out.Code, code, clip(out.Body.String()))
			}
		}
	}
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, rt := range routes {
		if rt.limit != unlimited {
			w.raw(ask{method: rt.method, path: fill(rt.pattern, w.some(nil)), body: body(rt)})
		}
	}

	var never []string
	for path, item := range d.Paths.Map() {
		for method, op := range item.Operations() {
			for status := range op.Responses.Map() {
				key := method + " " + path + " " + status
				// A broken embedded page, and a store that is busy rather than broken, cannot be had here.
				if d.seen[key] || (status == "500" && public[method+" "+path]) || (status == "503" && !strings.HasPrefix(path, "/v1/sandboxes")) {
					continue
				}
				never = append(never, key)
			}
		}
	}
	slices.Sort(never)
	if len(never) > 0 {
		t.Errorf("documented and never given: %q", never)
	}
}

// fillKeys makes the keys there are as many as there may be, and returns the
// way back.
func (w *world) fillKeys() func() {
	old := w.srv.maxKeys
	w.srv.maxKeys = 0
	have, err := w.db.Keys(w.Context(), hutch.DefaultOrg)
	if err != nil {
		w.Fatal(err)
	}
	for _, k := range have {
		if k.Revoked.IsZero() {
			w.srv.maxKeys++
		}
	}
	return func() { w.srv.maxKeys = old }
}

// exhaust uses up the key's limits, and returns the way back.
func (w *world) exhaust() func() {
	old := w.srv.limits
	w.srv.limits = newLimits(1, 1)
	for _, c := range []class{control, create} {
		if err := w.srv.limits.take(http.Header{}, w.key[10:22], c, w.now()); err != nil {
			w.Fatal(err)
		}
	}
	return func() { w.srv.limits = old }
}

// Extensions of ours are marked, and only those: the two HopX documents do not
// have them.
func TestExtensionsAreMarked(t *testing.T) {
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	marked := map[string]bool{}
	for name, s := range d.Components.Schemas {
		for field, p := range s.Value.Properties {
			if p.Value.Extensions["x-hutch"] == true {
				marked[name+"."+field] = true
			}
		}
	}
	for _, f := range []string{"CreateSandbox.metadata", "CreateSandbox.on_timeout", "CreateSandbox.preview_access", "CreateSandbox.vcpu",
		"Sandbox.metadata", "Sandbox.on_timeout", "Sandbox.preview_access", "Sandbox.preview_url_template", "Sandbox.fault", "Sandbox.reason", "Health.runsc"} {
		if !marked[f] {
			t.Errorf("%s is not marked", f)
		}
	}
	for _, f := range []string{"CreateSandbox.template_id", "CreateSandbox.timeout_seconds", "Sandbox.id", "Sandbox.resources", "Health.status"} {
		if marked[f] {
			t.Errorf("%s is marked", f)
		}
	}
}

// What the document says of a create is what the decoder thinks of it.
func TestCreateSchemaAgreesWithDecoder(t *testing.T) {
	d, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.compiler.Compile("https://hutch.test/openapi#/components/schemas/CreateSandbox")
	if err != nil {
		t.Fatal(err)
	}
	for field, values := range map[string][]string{
		"region":          {`"x"`, `null`, `1`, `"` + strings.Repeat("r", 64) + `"`, `"` + strings.Repeat("r", 65) + `"`},
		"timeout_seconds": {`0`, `1`, `null`, `-1`, `1.5`, `"1"`, `315360000`, `315360001`},
		"internet_access": {`true`, `false`, `null`, `1`, `"true"`},
		"env_vars":        {`{}`, `{"A":"b"}`, `null`, `{"A":1}`, `[]`, `{"A":null}`},
		"metadata":        {`{}`, `{"A":"b"}`, `null`, `{"A":1}`, `[]`},
		"vcpu":            {`1`, `null`, `0`, `"1"`, `1.5`},
		"memory_mb":       {`512`, `null`, `0`, `true`},
		"disk_gb":         {`5`, `null`, `0`, `{}`},
		"on_timeout":      {`"kill"`, `"pause"`, `"stop"`, `null`, `"gone"`, `1`},
		"preview_access":  {`"public"`, `"private"`, `null`, `"x"`, `true`},
		"unknown":         {`1`, `{}`},
	} {
		for _, v := range values {
			body := `{"template_id":1,"` + field + `":` + v + `}`
			doc, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			said := s.Validate(doc)
			_, thought := decodeCreate(http.Header{}, []byte(body), Config{})
			if (said == nil) != (thought == nil) {
				t.Errorf("%s: the document says %v, the decoder %v", clip(body), said, thought)
			}
		}
	}
}
