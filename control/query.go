package control

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/store"
)

const (
	defaultLimit    = 100
	maxLimit        = 1000
	maxCursorLen    = 1024
	maxStatusLen    = 32
	maxFilters      = 16 // metadata.KEY
	metadataFilter  = "metadata."
	maxGraceSeconds = 300
)

// A query is the query of a URL. Parameters nobody asks for are ignored, and
// empty ones count as absent.
type query url.Values

// parseQuery reads raw, which must be well formed: net/http's own reading drops
// what it cannot read, and a dropped filter answers another question.
func parseQuery(raw string) (query, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, invalid("query", "The query of the URL is malformed")
	}
	return query(q), nil
}

// text returns a parameter of no more than most bytes, "" if it is absent.
func (q query) text(name string, most int) (string, error) {
	vs := q[name]
	switch {
	case len(vs) == 0:
		return "", nil
	case len(vs) > 1:
		return "", invalid(name, "%s is there more than once", clip(name))
	case len(vs[0]) > most || !printable(vs[0]):
		return "", invalid(name, "%s must have at most %d printable bytes", clip(name), most)
	}
	return vs[0], nil
}

// integer returns a parameter that must be a whole number from least to most, or
// def if it is absent.
func (q query) integer(name string, def, least, most int64) (int64, error) {
	s, err := q.text(name, 32)
	if err != nil || s == "" {
		return def, err
	}
	n, whole := wholeNumber(s)
	if !whole || n < least || n > most {
		return 0, invalid(name, "%s must be a whole number from %d to %d", name, least, most)
	}
	return n, nil
}

// decodeList reads which sandboxes of org are asked for.
func decodeList(org hutch.OrgID, raw string) (store.Filter, error) {
	q, err := parseQuery(raw)
	if err != nil {
		return store.Filter{}, err
	}
	f := store.Filter{Org: org, Metadata: map[string]string{}}
	limit, err := q.integer("limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return store.Filter{}, err
	}
	f.Limit = int(limit)
	for _, p := range []struct {
		name string
		most int
		to   *string
	}{
		{"status", maxStatusLen, &f.Status},
		{"region", maxRegionLen, &f.Region},
		{"template", maxTemplateLen, &f.Template},
		{"cursor", maxCursorLen, &f.Cursor},
	} {
		if *p.to, err = q.text(p.name, p.most); err != nil {
			return store.Filter{}, err
		}
	}
	if f.Status != "" && !slices.Contains(api.Statuses, f.Status) {
		return store.Filter{}, invalid("status", "status must be one of %s", strings.Join(api.Statuses, ", "))
	}
	for name, values := range q {
		key, ok := strings.CutPrefix(name, metadataFilter)
		if !ok {
			continue
		}
		if len(values) > 1 {
			return store.Filter{}, invalid("metadata", "%s is there more than once", clip(name))
		}
		// An empty value is a value here: it asks for empty ones.
		f.Metadata[key] = values[0]
		if err := label("metadata", key, values[0]); err != nil {
			return store.Filter{}, err
		}
	}
	if len(f.Metadata) > maxFilters {
		return store.Filter{}, invalid("metadata", "There are more than %d metadata filters", maxFilters)
	}
	return f, nil
}

// decodeGrace reads how long a delete lets processes end by themselves;
// negative is the server's default.
func decodeGrace(raw string) (time.Duration, error) {
	q, err := parseQuery(raw)
	if err != nil {
		return 0, err
	}
	n, err := q.integer("grace", -1, 0, maxGraceSeconds)
	return time.Duration(n) * time.Second, err
}

// decodeTemplates reads which templates are asked for.
func decodeTemplates(raw string) (category, language string, err error) {
	q, err := parseQuery(raw)
	if err != nil {
		return "", "", err
	}
	if category, err = q.text("category", maxTemplateLen); err != nil {
		return "", "", err
	}
	language, err = q.text("language", maxTemplateLen)
	return category, language, err
}
