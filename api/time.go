package api

import (
	"bytes"
	"fmt"
	"time"
)

// timeLayout has exactly three decimals: Python before 3.11 parses 0, 3 or 6 of
// them and nothing else.
const timeLayout = "2006-01-02T15:04:05.000Z"

// A Time is a moment on the wire: RFC 3339 in UTC with exactly three decimals,
// and null when zero. Finer parts are cut, not rounded, so that a deadline is
// never shown later than it is.
type Time struct{ time.Time }

// String returns the wire form without quotes, and "" for the zero Time.
func (t Time) String() string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeLayout)
}

// MarshalJSON writes the wire form. It fails for years that have not four digits.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("year %d does not fit RFC 3339", y)
	}
	return []byte(`"` + t.String() + `"`), nil
}

// UnmarshalJSON reads any RFC 3339 time, or null for the zero Time.
func (t *Time) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		*t = Time{}
		return nil
	}
	var parsed time.Time
	if err := parsed.UnmarshalJSON(b); err != nil {
		return err
	}
	t.Time = parsed.UTC()
	return nil
}
