package control

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/control/lifecycle"
)

const (
	maxTemplateLen  = 128
	maxRegionLen    = 64
	maxTimeout      = 10 * 365 * 24 * time.Hour
	maxEnvBytes     = 64 << 10 // names and values together
	maxMetadata     = 64       // entries
	maxMetadataKey  = 128      // bytes
	maxMetadataText = 1024     // bytes of a value
	maxSize         = 1 << 20  // of vcpu, memory_mb, disk_gb; the template's own limits are far below
	maxIdempotency  = 255

	reservedEnv = "HUTCH_" // names the agent gives meaning to
)

// decodeCreate reads a create, or says which of its fields is wrong.
func decodeCreate(h http.Header, body []byte, cfg Config) (lifecycle.CreateRequest, error) {
	o, err := parseObject(body)
	if err != nil {
		return lifecycle.CreateRequest{}, err
	}
	var req lifecycle.CreateRequest
	for _, step := range []func() error{
		func() (err error) { req.Template, err = o.template(); return },
		func() (err error) { req.Region, err = o.text("region", maxRegionLen); return },
		func() (err error) { req.Timeout, err = o.timeout(cfg.MaxTimeout); return },
		func() (err error) { req.OnTimeout, err = o.onTimeout(); return },
		func() (err error) { req.Env, err = o.env(); return },
		func() (err error) { req.Metadata, err = o.metadata(); return },
		func() (err error) { req.Internet, err = o.flag("internet_access", true); return },
		func() (err error) { req.Private, err = o.private(cfg.PrivatePreviews); return },
		func() (err error) { req.Resources, err = o.resources(); return },
		func() (err error) { req.IdempotencyKey, err = idempotencyKey(h); return },
		func() (err error) { req.BodyHash, err = o.hash(); return },
	} {
		if err := step(); err != nil {
			return lifecycle.CreateRequest{}, err
		}
	}
	return req, nil
}

// template returns the name or id that template_id or template_name holds: each
// takes either, and template_id may be a number.
func (o object) template() (string, error) {
	byID, byName := o.has("template_id"), o.has("template_name")
	switch {
	case byID && byName:
		return "", invalid("template_id", "template_id and template_name exclude each other: send one")
	case byName:
		return o.templateText("template_name")
	case !byID:
		return "", invalid("template_name", "template_name or template_id is missing: GET /v1/templates lists what there is")
	}
	if raw := string(o["template_id"]); raw[0] != '"' {
		if n, whole := wholeNumber(raw); !whole || n < 0 || len(raw) > 18 {
			return "", invalid("template_id", "template_id must be a string or a whole number")
		}
		return raw, nil
	}
	return o.templateText("template_id")
}

func (o object) templateText(field string) (string, error) {
	s, err := o.text(field, maxTemplateLen)
	if err == nil && strings.TrimSpace(s) == "" {
		err = invalid(field, "%s must not be empty", field)
	}
	return s, err
}

// timeout returns timeout_seconds; absent, null and 0 mean none. Where the
// server has a longest life, that is what none comes to.
func (o object) timeout(longest time.Duration) (time.Duration, error) {
	n, err := o.integer("timeout_seconds", 0, int64(maxTimeout/time.Second))
	if err != nil {
		return 0, err
	}
	d := time.Duration(n) * time.Second
	if longest == 0 {
		return d, nil
	}
	if d > longest {
		return 0, invalid("timeout_seconds", "timeout_seconds is more than the %d this server allows", int64(longest/time.Second))
	}
	if d == 0 {
		d = longest
	}
	return d, nil
}

// onTimeouts pairs what clients may want of a deadline with what is ordered.
var onTimeouts = map[string]hutch.State{"kill": hutch.Gone, "pause": hutch.Paused, "stop": hutch.Stopped}

func (o object) onTimeout() (hutch.State, error) {
	w, err := o.word("on_timeout", "kill", slices.Sorted(maps.Keys(onTimeouts))...)
	return onTimeouts[w], err
}

func (o object) private(def bool) (bool, error) {
	w, err := o.word("preview_access", previewAccess(def), previewAccess(false), previewAccess(true))
	return w == previewAccess(true), err
}

// env returns env_vars, which must be possible as an environment. No message
// ever repeats a value.
func (o object) env() (map[string]string, error) {
	const field = "env_vars"
	env, err := o.strings(field)
	if err != nil {
		return nil, err
	}
	total := 0
	for name, value := range env {
		switch {
		case name == "":
			return nil, invalid(field, "env_vars has an empty name")
		case strings.ContainsAny(name, "=\x00"):
			return nil, invalid(field, "env_vars: the name %s has an equals sign or a NUL in it", clip(name))
		case strings.HasPrefix(name, reservedEnv):
			return nil, invalid(field, "env_vars: names that begin with %s are reserved, and %s does", reservedEnv, clip(name))
		case strings.ContainsRune(value, 0):
			return nil, invalid(field, "env_vars: the value of %s has a NUL in it", clip(name))
		}
		total += len(name) + len(value)
	}
	if total > maxEnvBytes {
		return nil, invalid(field, "env_vars has %d bytes of names and values; at most %d fit", total, maxEnvBytes)
	}
	return env, nil
}

func (o object) metadata() (map[string]string, error) {
	const field = "metadata"
	m, err := o.strings(field)
	if err != nil {
		return nil, err
	}
	if len(m) > maxMetadata {
		return nil, invalid(field, "metadata has more than %d entries", maxMetadata)
	}
	for k, v := range m {
		if err := label(field, k, v); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// label checks one entry of metadata, or of a filter by it.
func label(field, key, value string) error {
	switch {
	case key == "" || len(key) > maxMetadataKey || !printable(key):
		return invalid(field, "metadata: the key %s must have 1 to %d printable bytes", clip(key), maxMetadataKey)
	case len(value) > maxMetadataText || !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		return invalid(field, "metadata: the value of %s must be UTF-8 of at most %d bytes without NUL", clip(key), maxMetadataText)
	}
	return nil
}

func (o object) resources() (hutch.Resources, error) {
	var r hutch.Resources
	for field, to := range map[string]*int{"vcpu": &r.VCPU, "memory_mb": &r.MemoryMB, "disk_gb": &r.DiskMB} {
		n, err := o.integer(field, 1, maxSize)
		if err != nil {
			return hutch.Resources{}, err
		}
		*to = int(n)
	}
	r.DiskMB *= 1024
	return r, nil
}

// idempotencyKey returns the Idempotency-Key header, "" if there is none.
func idempotencyKey(h http.Header) (string, error) {
	vs := h.Values("Idempotency-Key")
	if len(vs) == 0 {
		return "", nil
	}
	bad := strings.ContainsFunc(vs[0], func(r rune) bool { return r < ' ' || r > '~' })
	if len(vs) > 1 || vs[0] == "" || len(vs[0]) > maxIdempotency || bad {
		return "", invalid("Idempotency-Key", "Idempotency-Key must be sent once, with 1 to %d printable ASCII characters", maxIdempotency)
	}
	return vs[0], nil
}

// decodeTimeout reads a change of the deadline.
func decodeTimeout(body []byte, longest time.Duration) (time.Duration, error) {
	o, err := parseObject(body)
	if err != nil {
		return 0, err
	}
	if _, there := o["timeout_seconds"]; !there {
		return 0, invalid("timeout_seconds", "timeout_seconds is missing: seconds from now, or 0 for no deadline")
	}
	return o.timeout(longest)
}

// decodeCreateKey reads what a new API key is to be called and when it expires;
// zero is never.
func decodeCreateKey(body []byte, now time.Time) (name string, expires time.Time, err error) {
	o, err := parseObject(body)
	if err != nil {
		return "", time.Time{}, err
	}
	if name, err = o.text("name", maxKeyNameLen); err == nil {
		err = keyName(name)
	}
	if err != nil {
		return "", time.Time{}, err
	}
	life, err := o.word("expires_in", "never", api.KeyLives...)
	if err != nil {
		return "", time.Time{}, err
	}
	return name, lives[life](now), nil
}
