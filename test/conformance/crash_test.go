package conformance

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
	"github.com/hutch-sh/hutch/test/e2e/installation"
	"github.com/hutch-sh/hutch/test/e2e/ledger"
)

// A witness is a sandbox in which a process counts: if it was restarted, or
// another answers in its name, the witness tells.
type witness struct {
	*caller.Sandbox
	pid string
}

func (w *witness) prepare(ctx context.Context) error {
	if _, err := w.Start(ctx, "echo "+w.ID+" > /tmp/me; echo $BASHPID > /tmp/pid.tmp; mv /tmp/pid.tmp /tmp/pid; i=0; while :; do i=$((i+1)); echo $i > /tmp/n.tmp; mv /tmp/n.tmp /tmp/n; sleep 0.1; done"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return poll(ctx, func() (bool, error) {
		r, err := w.Shell(ctx, "cat /tmp/pid && cat /tmp/n", 10*time.Second)
		if err != nil || r.ExitCode != 0 {
			return false, fmt.Errorf("%s does not count: %v %w", w.ID, r, err)
		}
		w.pid, _, _ = strings.Cut(r.Stdout, "\n")
		return true, nil
	})
}

// testify checks that the sandbox is the same and goes on.
func (w *witness) testify(ctx context.Context) error {
	r, err := w.Shell(ctx, `cat /tmp/me /tmp/pid; a=$(cat /tmp/n); for i in $(seq 100); do b=$(cat /tmp/n); [ "$a" != "$b" ] && break; sleep 0.1; done; [ "$b" -gt "$a" ] && echo counts`, 30*time.Second)
	if err != nil {
		return fmt.Errorf("%s: %w", w.ID, err)
	}
	if want := w.ID + "\n" + w.pid + "\ncounts\n"; r.Stdout != want {
		return fmt.Errorf("%s says %q, want %q", w.ID, r.Stdout, want)
	}
	return nil
}

// TestServerKilled kills the server without warning while 20 sandboxes run, one
// of them paused, and starts it again: every one answers and is the one it was,
// none is doubled, and those killed just before stay dead.
func TestServerKilled(t *testing.T) {
	m := alone(t, installation.Options{})
	base := snapshot(t, m)
	who := m.Caller()
	witnesses := gather(t, who, 20)
	paused := witnesses[0]
	verb(t, paused.Sandbox, "pause")
	stopped := made(t, who, nil)
	if a := must[caller.Answer](t)(stopped.Agent(t.Context(), http.MethodPost, "/files/write", map[string]any{"path": "/workspace/kept", "content": stopped.ID})); a.Status != 200 {
		t.Fatal(a)
	}
	verb(t, stopped, "stop")

	for round := range 3 {
		victims := gather(t, who, 2)
		// One is killed and answered, one kill is under way, one create is.
		must[caller.Answer](t)(victims[0].Kill(t.Context()))
		var loose sync.WaitGroup
		var killed, created caller.Answer
		loose.Go(func() { killed, _ = victims[1].Verb(t.Context(), "kill") })
		loose.Go(func() {
			_, created, _ = who.Create(t.Context(), "base", map[string]any{"metadata": map[string]string{"loose": fmt.Sprint(round)}})
		})
		pass(t.Context(), time.Duration(round*80)*time.Millisecond) // another moment of both each round
		must[time.Duration](t)(m.Signal(t.Context(), syscall.SIGKILL))
		loose.Wait()

		began := time.Now()
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: ready %v after the crash; the kill under way had answered %d, the create %d",
			round, time.Since(began).Round(time.Millisecond), killed.Status, created.Status)

		for _, w := range witnesses[1:] {
			if err := w.testify(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if a := must[caller.Answer](t)(paused.Get(t.Context())); a.Text("status") != "paused" {
			t.Errorf("the paused one is %s", a)
		}
		// What was acknowledged holds. A kill that was not may have been lost,
		// and then its sandbox lives; a create that was not has left nothing.
		want := []string{stopped.ID}
		for _, w := range witnesses {
			want = append(want, w.ID)
		}
		if created.Status == http.StatusCreated {
			want = append(want, created.Text("id"))
		}
		until(t, "the list is as acknowledged", 15*time.Second, func() (bool, error) {
			ids, err := who.List(t.Context(), "")
			if err != nil {
				return false, err
			}
			if killed.Status != http.StatusOK {
				ids = without(ids, victims[1].ID)
			}
			more, less := without(ids, want...), without(want, ids...)
			return len(more)+len(less) == 0, fmt.Errorf("listed beside those acknowledged: %v; missing: %v", more, less)
		})
		if a := must[caller.Answer](t)(victims[0].Get(t.Context())); a.Status != http.StatusNotFound {
			t.Errorf("killed before the crash, and there: %s", a)
		}
		if killed.Status != http.StatusOK {
			must[caller.Answer](t)(victims[1].Kill(t.Context()))
		}
		if a := must[caller.Answer](t)(victims[1].Get(t.Context())); a.Status != http.StatusNotFound {
			t.Errorf("killed, and there: %s", a)
		}
		var left []ledger.Change
		until(t, "nothing is left of the dead", 15*time.Second, func() (bool, error) {
			left = snapshot(t, m).Mentions(victims[0].ID, victims[1].ID)
			left = slices.DeleteFunc(left, func(c ledger.Change) bool { return c.Class == ledger.Files && strings.Contains(c.What, ".db") })
			return len(left) == 0, fmt.Errorf("%v", left)
		})
		if created.Status == http.StatusCreated {
			sb := &caller.Sandbox{Caller: who, ID: created.Text("id")}
			must[caller.Answer](t)(sb.Kill(t.Context()))
		}
	}

	verb(t, paused.Sandbox, "resume")
	if err := paused.testify(t.Context()); err != nil {
		t.Error(err)
	}
	verb(t, stopped, "start")
	if a := must[caller.Answer](t)(stopped.Agent(t.Context(), http.MethodGet, "/files/read?path=/workspace/kept", nil)); a.Text("content") != stopped.ID {
		t.Errorf("the stopped one's disk: %s", a)
	}
	for _, w := range witnesses {
		must[caller.Answer](t)(w.Kill(t.Context()))
	}
	must[caller.Answer](t)(stopped.Kill(t.Context()))
	nothingOf(t, m, base, paused.ID, stopped.ID)
}

// TestServerStopped ends the server with SIGTERM: it goes within 10 s, says how
// many sandboxes it leaves, and the next start adopts them.
func TestServerStopped(t *testing.T) {
	m := alone(t, installation.Options{KeepOnExit: true})
	who := m.Caller()
	witnesses := gather(t, who, 5)
	took := must[time.Duration](t)(m.Signal(t.Context(), syscall.SIGTERM))
	if took > 10*time.Second {
		t.Errorf("took %v to end", took)
	}
	t.Logf("ended in %v", took.Round(time.Millisecond))
	if log := m.Log(); !strings.Contains(log, "5") || !strings.Contains(log, "kill --all") {
		t.Errorf("does not say what it leaves and how to end that:\n%s", log)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range witnesses {
		if err := w.testify(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if ids := must[[]string](t)(who.List(t.Context(), "")); len(ids) != len(witnesses) {
		t.Errorf("%d listed, want %d", len(ids), len(witnesses))
	}

	t.Run("kill --all without a server", func(t *testing.T) {
		must[time.Duration](t)(m.Signal(t.Context(), syscall.SIGTERM))
		must[string](t)(m.Run(t.Context(), "kill", "--all", "--data", m.Data))
		if err := m.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ids := must[[]string](t)(who.List(t.Context(), "")); len(ids) != 0 {
			t.Errorf("listed: %v", ids)
		}
	})
	t.Run("kill --all with a server", func(t *testing.T) {
		gather(t, who, 3)
		must[string](t)(m.Run(t.Context(), "kill", "--all", "--data", m.Data))
		if ids := must[[]string](t)(who.List(t.Context(), "")); len(ids) != 0 {
			t.Errorf("listed: %v", ids)
		}
	})
}

// TestKillOnExit ends the server with SIGTERM and --kill-on-exit: nothing lives
// on.
func TestKillOnExit(t *testing.T) {
	m := alone(t, installation.Options{})
	gather(t, m.Caller(), 3)
	scope := m.Scope()
	must[time.Duration](t)(m.Signal(t.Context(), syscall.SIGTERM))
	scope.Server, scope.ListAll, scope.Dirs = 0, nil, nil
	left := must[[]ledger.Change](t)(scope.Settle(t.Context(), ledger.Snapshot{}, ledger.Processes, ledger.Cgroups, ledger.Namespaces, ledger.Links, ledger.Mounts))
	for _, l := range left {
		t.Errorf("left: %s", l)
	}
}

// alone is an installation that only this test uses.
func alone(t *testing.T, opts installation.Options) *installation.Installation {
	t.Helper()
	machine(t) // skips where it must
	m, err := installation.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error("installation:", err)
		}
	})
	return m
}

// gather makes n witnesses, a few at a time.
func gather(t *testing.T, who caller.Caller, n int) []*witness {
	t.Helper()
	found := make([]*witness, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range found {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			sb, _, err := who.Create(t.Context(), "base", nil)
			if err != nil {
				errs[i] = err
				return
			}
			found[i] = &witness{Sandbox: sb}
			errs[i] = found[i].prepare(t.Context())
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// without returns all but those.
func without(all []string, those ...string) []string {
	var rest []string
	for _, id := range all {
		if !slices.Contains(those, id) {
			rest = append(rest, id)
		}
	}
	return rest
}
