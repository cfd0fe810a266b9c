package api

import (
	"encoding/json"
	"testing"
	"time"
)

func TestTime(t *testing.T) {
	est := time.FixedZone("EST", -5*3600)
	for _, c := range []struct {
		in   time.Time
		want string
	}{
		{time.Time{}, "null"},
		{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), `"2026-01-01T00:00:00.000Z"`},
		{time.Date(2026, 1, 1, 0, 0, 0, 999_999_999, time.UTC), `"2026-01-01T00:00:00.999Z"`},
		{time.Date(2026, 1, 1, 23, 0, 0, 5_000_000, est), `"2026-01-02T04:00:00.005Z"`},
	} {
		b, err := json.Marshal(Time{c.in})
		if err != nil || string(b) != c.want {
			t.Errorf("%v is %s, %v", c.in, b, err)
		}
		var back Time
		if err := json.Unmarshal(b, &back); err != nil || !back.Equal(c.in.Truncate(time.Millisecond)) {
			t.Errorf("%s came back as %v, %v", b, back, err)
		}
	}
	if b, err := json.Marshal(Time{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
		t.Errorf("year 10000 is %s", b)
	}
	var bad Time
	for _, s := range []string{`""`, `"yesterday"`, `12`, `{}`} {
		if err := json.Unmarshal([]byte(s), &bad); err == nil {
			t.Errorf("%s was read", s)
		}
	}
	// Whatever comes in is shown in UTC again.
	var tm Time
	if err := json.Unmarshal([]byte(`"2026-01-01T02:00:00+02:00"`), &tm); err != nil || tm.String() != "2026-01-01T00:00:00.000Z" {
		t.Errorf("%v, %v", tm, err)
	}
	if (Time{}).String() != "" {
		t.Error("the zero time has a text")
	}
}
