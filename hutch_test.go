package hutch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The whole state table, every pair.
func TestMay(t *testing.T) {
	want := map[State]string{
		Creating: "gone",
		Running:  "paused stopped gone",
		Paused:   "running stopped gone",
		Stopped:  "running gone",
		Failed:   "gone",
		Gone:     "",
	}
	if len(want) != len(States) {
		t.Fatalf("%d states, %d in the table", len(States), len(want))
	}
	for _, from := range States {
		for _, to := range States {
			may := strings.Contains(" "+want[from]+" ", " "+string(to)+" ")
			if from.May(to) != may {
				t.Errorf("%s.May(%s) = %v", from, to, !may)
			}
		}
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		is, want State
		status   string
		alive    bool
	}{
		{Creating, Running, "creating", true},
		{Running, Running, "running", true},
		{Running, Paused, "running", true},
		{Paused, Paused, "paused", true},
		{Stopped, Stopped, "stopped", true},
		{Failed, Running, "error", true},
		{Running, Gone, "killed", false},
		{Failed, Gone, "killed", false},
		{Gone, Gone, "killed", false},
	} {
		sb := Sandbox{Is: c.is, Want: c.want}
		if sb.Status() != c.status || sb.Alive() != c.alive {
			t.Errorf("is %s, want %s: %s, alive %v", c.is, c.want, sb.Status(), sb.Alive())
		}
	}
}

func TestSandboxID(t *testing.T) {
	seen := map[SandboxID]bool{}
	for range 10_000 {
		id := NewSandboxID()
		if !id.Valid() || seen[id] {
			t.Fatalf("%q: valid %v, seen %v", id, id.Valid(), seen[id])
		}
		seen[id] = true
	}
	good := NewSandboxID()
	for _, bad := range []SandboxID{"", "s", good[1:], good + "a", "x" + good[1:], good[:20] + "/", good[:20] + "A", good[:20] + "0", good[:20] + "\n", "../../../../../../etc"} {
		if bad.Valid() {
			t.Errorf("%q is valid", bad)
		}
	}
}

func FuzzSandboxID(f *testing.F) {
	f.Add(string(NewSandboxID()))
	f.Add("../x")
	f.Fuzz(func(t *testing.T, s string) {
		if id := SandboxID(s); id.Valid() && (len(s) != 21 || strings.ContainsAny(s, "/.\x00 -")) {
			t.Errorf("%q is valid", s)
		}
	})
}

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	e := &Error{Kind: Conflict, Op: "a.B", Msg: "no", Err: cause}
	if e.Error() != "a.B: no: cause" || !errors.Is(e, cause) {
		t.Error(e)
	}
	for err, want := range map[error]Kind{
		e:                        Conflict,
		fmt.Errorf("x: %w", e):   Conflict,
		cause:                    Internal,
		context.Canceled:         Canceled,
		context.DeadlineExceeded: Timeout,
		errors.Join(cause, &Error{Kind: NotFound, Msg: "m"}): NotFound,
	} {
		if got := KindOf(err); got != want {
			t.Errorf("KindOf(%v) = %d, want %d", err, got, want)
		}
	}
}
