package conformance

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
	"github.com/hutch-sh/hutch/test/e2e/installation"
	"github.com/hutch-sh/hutch/test/e2e/ledger"
)

// EnvCycles is how many create -> exec -> kill cycles TestCycles runs: 1,000
// unless it is set, 50 with -short.
const EnvCycles = "HUTCH_TEST_CYCLES"

// TestCycles makes, uses and kills one sandbox after another. Every kill is a
// 200; at every answer nothing is left; at the end the server is as it was.
func TestCycles(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 50
	}
	if s := os.Getenv(EnvCycles); s != "" {
		n = must[int](t)(strconv.Atoi(s))
	}
	m := alone(t, installation.Options{})
	who := m.Caller()
	cycle := func(i int) time.Duration {
		sb, _, err := who.Create(t.Context(), "base", map[string]any{"env_vars": map[string]string{"N": strconv.Itoa(i)}})
		if err != nil {
			t.Fatalf("cycle %d: %v", i, err)
		}
		r, err := sb.Shell(t.Context(), "echo $N > /tmp/n; cat /tmp/n", 30*time.Second)
		if err != nil || r.Stdout != strconv.Itoa(i)+"\n" {
			t.Errorf("cycle %d: %+v %v", i, r, err)
		}
		a, err := sb.Kill(t.Context())
		if err != nil {
			t.Fatalf("cycle %d: %v", i, err)
		}
		return a.Took
	}
	// The first ones fill pools and caches that then stay as they are; many at
	// once, because a pool opens what it needs for those.
	for i := range 20 {
		cycle(-1 - i)
	}
	var crowd sync.WaitGroup
	for range 32 {
		crowd.Go(func() {
			for range 20 {
				if _, err := who.List(t.Context(), ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	crowd.Wait()
	base := snapshot(t, m)
	t.Logf("before: %s", base)
	took := make([]time.Duration, 0, n)
	var memory []ledger.Usage
	for i := range n {
		took = append(took, cycle(i))
		now := snapshot(t, m)
		for _, l := range base.Left(now, ledger.Instant...) {
			t.Errorf("cycle %d: left at the answer: %s", i, l)
		}
		if i%50 == 0 {
			memory = append(memory, now.Usage)
		}
		if t.Failed() {
			t.Fatal("stopping at the first leak")
		}
	}
	left := must[[]ledger.Change](t)(m.Scope().Settle(deadline(t, 10*time.Second), base))
	for _, l := range left {
		t.Errorf("left at the end: %s", l)
	}
	end := snapshot(t, m)
	t.Logf("after:  %s", end)
	for class, why := range end.Skipped {
		t.Logf("not counted: %s: %s", class, why)
	}
	if grew := end.Usage.RSS - base.Usage.RSS; n >= 200 && grew > 32<<20 {
		t.Errorf("the server grew by %d MiB over %d cycles: %v", grew>>20, n, memory)
	}
	slices.Sort(took)
	at := func(p float64) time.Duration {
		return took[min(len(took)-1, int(p*float64(len(took))))].Round(time.Millisecond)
	}
	t.Logf("%d kills: p50 %v p99 %v max %v; 0 failures means below %s at 95 %%", n, at(.5), at(.99), at(1), bound(n))
	if a := must[caller.Answer](t)(who.Do(t.Context(), "GET", "/v1/sandboxes", nil)); a.Status != 200 {
		t.Error(a)
	}
}

// bound is the rule of three: what "none of n" rules out.
func bound(n int) string { return fmt.Sprintf("%.2f %%", 300/float64(max(n, 1))) }
