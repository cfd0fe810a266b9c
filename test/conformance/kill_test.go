package conformance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
	"github.com/hutch-sh/hutch/test/e2e/installation"
	"github.com/hutch-sh/hutch/test/e2e/ledger"
)

// killLimit is how long any kill may take before the contract wants a 503.
// The figures themselves are for the benchmark: here they are only printed.
const killLimit = 5 * time.Second

// TestKillInEveryState brings a sandbox into a state and kills it there. The
// answer is 200, and at the moment of the answer nothing is left.
func TestKillInEveryState(t *testing.T) {
	m := machine(t)
	who := m.Caller()
	states := []struct {
		name   string
		fields map[string]any
		bring  func(*testing.T, *caller.Sandbox)
	}{
		{"running", nil, func(*testing.T, *caller.Sandbox) {}},
		{"paused", nil, func(t *testing.T, sb *caller.Sandbox) { verb(t, sb, "pause") }},
		{"paused and resumed", nil, func(t *testing.T, sb *caller.Sandbox) { verb(t, sb, "pause"); verb(t, sb, "resume") }},
		{"stopped", nil, func(t *testing.T, sb *caller.Sandbox) { verb(t, sb, "stop") }},
		{"stopped while paused", nil, func(t *testing.T, sb *caller.Sandbox) { verb(t, sb, "pause"); verb(t, sb, "stop") }},
		{"stopped and started", nil, func(t *testing.T, sb *caller.Sandbox) { verb(t, sb, "stop"); verb(t, sb, "start") }},
		{"spinning on every core", nil, func(t *testing.T, sb *caller.Sandbox) { spin(t, sb) }},
		{"fork bomb", nil, func(t *testing.T, sb *caller.Sandbox) { bomb(t, sb) }},
		{"SIGTERM ignored", nil, func(t *testing.T, sb *caller.Sandbox) {
			start(t, sb, `trap "" TERM INT HUP; touch /tmp/up; while :; do sleep 1; done`)
		}},
		{"flooding its output", nil, func(t *testing.T, sb *caller.Sandbox) { start(t, sb, "touch /tmp/up; exec yes") }},
		{"dirtying memory", nil, func(t *testing.T, sb *caller.Sandbox) {
			start(t, sb, "touch /tmp/up; while :; do head -c 100M /dev/zero > /dev/shm/x; done")
		}},
		{"out of memory", map[string]any{"memory_mb": 512}, func(t *testing.T, sb *caller.Sandbox) { exhaust(t, sb) }},
		{"agent dead", nil, func(t *testing.T, sb *caller.Sandbox) { loseAgent(t, sb) }},
		{"agent stopped", nil, func(t *testing.T, sb *caller.Sandbox) {
			must[string](t)(sb.Start(t.Context(), "pkill -STOP -f 'hutch-agent [s]erve'"))
			silent(t, sb)
		}},
		{"sentry stopped", nil, func(t *testing.T, sb *caller.Sandbox) { signal(t, m, sb, syscall.SIGSTOP) }},
		{"sentry killed", nil, func(t *testing.T, sb *caller.Sandbox) { signal(t, m, sb, syscall.SIGKILL) }},
		{"frozen by its cgroup", nil, func(t *testing.T, sb *caller.Sandbox) { freeze(t, m, sb) }},
		{"deadline a second away", map[string]any{"timeout_seconds": 1}, func(*testing.T, *caller.Sandbox) {}},
	}
	for _, s := range states {
		for _, how := range []string{"kill", "delete"} {
			t.Run(s.name+"/"+how, func(t *testing.T) {
				base := snapshot(t, m) // for each anew: a leak is of the case that made it
				sb := made(t, who, s.fields)
				s.bring(t, sb)
				method, path := http.MethodPost, "/v1/sandboxes/"+sb.ID+"/kill"
				if how == "delete" {
					method, path = http.MethodDelete, "/v1/sandboxes/"+sb.ID
				}
				a := must[caller.Answer](t)(who.Do(t.Context(), method, path, nil))
				if a.Status != http.StatusOK || a.Text("id") != sb.ID {
					t.Fatalf("%s of %s: %s", how, s.name, a)
				}
				nothingOf(t, m, base, sb.ID)
				if a.Took > killLimit {
					t.Errorf("took %v", a.Took)
				}
				t.Logf("%s: %v", s.name, a.Took.Round(time.Millisecond))
				dead := must[caller.Answer](t)(sb.Get(t.Context()))
				envelope(t, dead, http.StatusNotFound, "RESOURCE_NOT_FOUND")
				// What died by itself before the kill came says of what.
				reasons := append([]string{"request"}, diesOf[s.name]...)
				if why := dead.Text("details.reason"); !slices.Contains(reasons, why) || dead.Text("details.terminated_at") == "" {
					t.Errorf("of what it died: %s, want one of %q", dead, reasons)
				}
				if a := must[caller.Answer](t)(sb.Agent(t.Context(), http.MethodGet, "/health", nil)); a.Status != http.StatusUnauthorized && a.Status != http.StatusNotFound {
					t.Errorf("its token still opens something: %s", a)
				}
			})
		}
	}
}

// diesOf are the ends that a state may bring by itself, before the kill.
var diesOf = map[string][]string{
	"out of memory":          {"oom"},
	"agent dead":             {"agent_lost", "crashed"},
	"sentry killed":          {"crashed"},
	"fork bomb":              {"crashed", "agent_lost"},
	"deadline a second away": {"timeout"},
}

// TestKillTogether sends 64 kills of one sandbox at once. Every one gets 200,
// and by the first answer it is over.
func TestKillTogether(t *testing.T) {
	m := machine(t)
	who := m.Caller()
	base := snapshot(t, m)
	for round := range 3 {
		sb := made(t, who, nil)
		spin(t, sb)
		answers := make([]caller.Answer, 64)
		errs := make([]error, len(answers))
		begin := make(chan struct{})
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				<-begin
				if i%2 == 0 {
					answers[i], errs[i] = sb.Verb(t.Context(), "kill")
				} else {
					answers[i], errs[i] = who.Do(t.Context(), http.MethodDelete, "/v1/sandboxes/"+sb.ID+"?grace=0", nil)
				}
			})
		}
		close(begin)
		all.Wait()
		var slowest time.Duration
		for i, a := range answers {
			if errs[i] != nil || a.Status != http.StatusOK || a.Text("id") != sb.ID {
				t.Errorf("kill %d: %v %v", i, a, errs[i])
			}
			slowest = max(slowest, a.Took)
		}
		nothingOf(t, m, base, sb.ID)
		t.Logf("round %d: the slowest of %d took %v", round, len(answers), slowest.Round(time.Millisecond))
	}
}

// TestKillDuringCreate kills sandboxes at a random moment of their making. The
// seed is printed. Whatever the create answers, nothing is left.
func TestKillDuringCreate(t *testing.T) {
	m := machine(t)
	who := m.Caller()
	base := snapshot(t, m)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("HUTCH_TEST_SEED"); s != "" {
		seed = must[uint64](t)(strconv.ParseUint(s, 10, 64))
	}
	t.Logf("HUTCH_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	outcomes := map[string]int{}
	for n := range 40 {
		mark := fmt.Sprintf("kdc-%d-%d", seed, n)
		type created struct {
			answer caller.Answer
			err    error
		}
		done := make(chan created, 1)
		go func() {
			_, a, err := who.Create(t.Context(), "base", map[string]any{"metadata": map[string]string{"mark": mark}})
			done <- created{a, err}
		}()
		// The row is the first thing there is of it; its id comes from the list.
		var id string
		until(t, "the sandbox is listed", 10*time.Second, func() (bool, error) {
			ids, err := who.List(t.Context(), "metadata.mark="+mark)
			if len(ids) == 1 {
				id = ids[0]
			}
			return id != "", err
		})
		pass(t.Context(), time.Duration(random.Int64N(int64(150*time.Millisecond))))
		a := must[caller.Answer](t)(who.Do(t.Context(), http.MethodPost, "/v1/sandboxes/"+id+"/kill", nil))
		if a.Status != http.StatusOK {
			t.Errorf("kill %d: %s", n, a)
		}
		nothingOf(t, m, base, id)
		c := <-done
		outcomes[strconv.Itoa(c.answer.Status)]++
		if c.answer.Status == http.StatusCreated {
			if a := must[caller.Answer](t)(who.Do(t.Context(), http.MethodGet, "/v1/sandboxes/"+id, nil)); a.Status != http.StatusNotFound {
				t.Errorf("killed, and there: %s", a)
			}
		} else if c.answer.Status >= 500 {
			t.Errorf("a create that was killed answers %s: clients repeat it", c.answer)
		}
		nothingOf(t, m, base, id)
	}
	t.Logf("what the creates answered: %v", outcomes)
}

// TestCreateAbandoned goes away in the middle of creates: nothing is left.
func TestCreateAbandoned(t *testing.T) {
	m := machine(t)
	who := m.Caller()
	base := snapshot(t, m)
	before := must[[]string](t)(who.List(t.Context(), ""))
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond+time.Duration(random.Int64N(int64(120*time.Millisecond))))
		sb, _, err := who.Create(ctx, "base", nil)
		cancel()
		if err == nil { // it was faster
			ends(t, sb)
			must[caller.Answer](t)(sb.Kill(t.Context()))
		}
	}
	until(t, "nothing of abandoned creates is left", 15*time.Second, func() (bool, error) {
		now, err := who.List(t.Context(), "")
		if err != nil || !slices.Equal(before, now) {
			return false, fmt.Errorf("%v before, %v now: %w", before, now, err)
		}
		left := base.Left(snapshot(t, m), ledger.Instant...)
		return len(left) == 0, fmt.Errorf("%v", left)
	})
}

// TestIdempotentCreate repeats creates under one key: one sandbox, however often
// and however close together; another body is a conflict.
func TestIdempotentCreate(t *testing.T) {
	who := target(t)
	key := fmt.Sprint("idem-", time.Now().UnixNano())
	post := func(body string) (caller.Answer, error) {
		return who.Do(t.Context(), http.MethodPost, "/v1/sandboxes", body, "Idempotency-Key", key)
	}
	const body = `{"template_name":"base","metadata":{"a":"1"}}`
	answers := make([]caller.Answer, 8)
	errs := make([]error, len(answers))
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i], errs[i] = post(body) })
	}
	all.Wait()
	ids := map[string]bool{}
	for i, a := range answers {
		if errs[i] != nil || a.Status != http.StatusCreated && a.Status != http.StatusOK && a.Status != http.StatusConflict {
			t.Errorf("create %d: %v %v", i, a, errs[i])
		}
		if id := a.Text("id"); id != "" && !ids[id] {
			ids[id] = true
			ends(t, &caller.Sandbox{Caller: who, ID: id})
		}
	}
	if len(ids) != 1 {
		t.Fatalf("one key made %d sandboxes", len(ids))
	}
	again := must[caller.Answer](t)(post(`{ "metadata": {"a": "1"}, "template_name": "base" }`))
	if !ids[again.Text("id")] || again.Text("auth_token") == "" {
		t.Errorf("the same, spelled otherwise: %s", again)
	}
	envelope(t, must[caller.Answer](t)(post(`{"template_name":"base","metadata":{"a":"2"}}`)), http.StatusConflict)
}

func verb(t *testing.T, sb *caller.Sandbox, name string) {
	t.Helper()
	if a := must[caller.Answer](t)(sb.Verb(t.Context(), name)); a.Status != http.StatusOK {
		t.Fatalf("%s: %s", name, a)
	}
}

// start runs a line in the background and waits until it has made /tmp/up.
func start(t *testing.T, sb *caller.Sandbox, line string) {
	t.Helper()
	must[string](t)(sb.Start(t.Context(), line))
	until(t, "it runs", 10*time.Second, func() (bool, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		a, err := sb.Agent(ctx, http.MethodGet, "/files/exists?path=/tmp/up", nil)
		if ctx.Err() != nil { // it is so much at it that the agent cannot say so
			return true, nil
		}
		return err == nil && a.Status == 200 && a.Field("exists") == true || a.Status >= 500, err
	})
}

func spin(t *testing.T, sb *caller.Sandbox) {
	t.Helper()
	start(t, sb, "for i in 1 2 3 4; do while :; do :; done & done; touch /tmp/up; wait")
}

func bomb(t *testing.T, sb *caller.Sandbox) {
	t.Helper()
	// It says that it is up when it has had a second to grow, with builtins
	// only: by then there may be no process to be had.
	start(t, sb, `mkfifo /tmp/wait; exec 9<>/tmp/wait; b() { b | b & }; b; read -t 1 -u 9; : > /tmp/up; wait`)
}

// exhaust uses all the memory there is, and waits for what comes of it: the
// process ends, or the sandbox.
func exhaust(t *testing.T, sb *caller.Sandbox) {
	t.Helper()
	a, err := sb.Agent(t.Context(), http.MethodPost, "/commands/run", map[string]any{
		"command": "bash", "args": []string{"-c", "head -c 4G /dev/zero | tail"}, "timeout": 60,
	})
	t.Logf("using all memory: %v %v", a, err)
}

// loseAgent keeps killing the agent, so that no restart of it lasts.
func loseAgent(t *testing.T, sb *caller.Sandbox) {
	t.Helper()
	must[string](t)(sb.Start(t.Context(), "setsid bash -c 'while :; do pkill -KILL -f \"hutch-agent [s]erve\"; done' & wait"))
	silent(t, sb)
}

// silent waits until the agent does not answer.
func silent(t *testing.T, sb *caller.Sandbox) {
	t.Helper()
	until(t, "the agent is silent", 20*time.Second, func() (bool, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		a, err := sb.Agent(ctx, http.MethodGet, "/ping", nil)
		return err != nil || a.Status != http.StatusOK, err
	})
}

// signal sends sig to every process of the sandbox's runtime on this machine.
func signal(t *testing.T, m *installation.Installation, sb *caller.Sandbox, sig syscall.Signal) {
	t.Helper()
	pids := must[[]int](t)(m.Processes(sb.ID))
	if len(pids) == 0 {
		t.Fatal("the sandbox has no process")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// freeze holds the sandbox with the kernel's freezer, from which no signal
// frees: whoever kills must thaw.
func freeze(t *testing.T, m *installation.Installation, sb *caller.Sandbox) {
	t.Helper()
	for _, dir := range must[[]string](t)(m.Cgroups(sb.ID)) {
		for file, value := range map[string]string{"freezer.state": "FROZEN", "cgroup.freeze": "1"} {
			path := filepath.Join(dir, file)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			if err := os.WriteFile(path, []byte(value), 0); err != nil {
				t.Fatal(err)
			}
			state := func() string {
				for _, f := range []string{"freezer.state", "cgroup.events"} {
					if data, err := os.ReadFile(filepath.Join(dir, f)); err == nil {
						return string(data)
					}
				}
				return ""
			}
			until(t, "it is frozen", 10*time.Second, func() (bool, error) {
				s := state()
				return strings.HasPrefix(s, "FROZEN") || strings.Contains(s, "frozen 1"), nil
			})
			return
		}
	}
	t.Skip("SKIP: this machine has no freezer")
}
