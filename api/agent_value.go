package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

// Seconds is a span as clients send it: a JSON number, whole or not. Nil and
// null mean that none was given.
type Seconds float64

// maxSeconds is ten years: more than any sandbox lives, and far from overflow.
const maxSeconds = 10 * 365 * 24 * 3600

// Duration returns s as a duration, and def when s is nil or 0. Longer than ten
// years is ten years. A negative span is an error.
func (s *Seconds) Duration(def time.Duration) (time.Duration, error) {
	switch {
	case s == nil || *s == 0:
		return def, nil
	case math.IsNaN(float64(*s)) || *s < 0:
		return 0, errors.New("a timeout cannot be negative")
	case *s > maxSeconds:
		return maxSeconds * time.Second, nil
	}
	return time.Duration(float64(*s) * float64(time.Second)), nil
}

// EnvVars are environment variables as clients send them. Values are strings;
// numbers and booleans are taken as they are written, because JavaScript
// callers send them. A null removes a variable where that makes sense.
type EnvVars map[string]*string

// UnmarshalJSON reads an object of scalars.
func (e *EnvVars) UnmarshalJSON(b []byte) error {
	if bytes.Equal(bytes.TrimSpace(b), []byte("null")) {
		*e = nil
		return nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return errors.New("environment variables must be an object of strings")
	}
	m := make(EnvVars, len(raw))
	for k, v := range raw {
		s, err := scalar(v)
		if err != nil {
			return fmt.Errorf("environment variable %q: %w", k, err)
		}
		m[k] = s
	}
	*e = m
	return nil
}

// scalar returns the text of a JSON string, number or boolean, and nil for null.
func scalar(b json.RawMessage) (*string, error) {
	switch b[0] {
	case '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, err
		}
		return &s, nil
	case '{', '[':
		return nil, errors.New("the value must be a string")
	case 'n':
		return nil, nil
	}
	s := string(b)
	return &s, nil
}
