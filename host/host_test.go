package host_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host"
	"github.com/hutch-sh/hutch/host/driver"
	"github.com/hutch-sh/hutch/host/driver/fake"
	"github.com/hutch-sh/hutch/host/hosttest"
	"github.com/hutch-sh/hutch/internal/handshake"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is one machine under test. Hosts come and go on it.
type world struct {
	t      *testing.T
	dir    string
	driver *fake.Driver
	links  *hosttest.Links
	agent  *hosttest.Agent
	fault  func(id hutch.SandboxID, step string) error
	news   chan hutch.Fact
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, dir: t.TempDir(), driver: new(fake.Driver), agent: new(hosttest.Agent), news: make(chan hutch.Fact, 100),
		links: hosttest.NewLinks(),
	}
}

// open starts a host, as a server does; close ends it and leaves sandboxes.
func (w *world) open() *host.Host {
	w.t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	h, err := host.Open(w.t.Context(), host.Config{
		ID: "h", Dir: w.dir, Driver: w.driver, Network: w.links, Images: hosttest.Images{}, Guest: w.agent, Key: key,
		News: func(f hutch.Fact) { w.news <- f }, Fault: w.fault,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(h.Close)
	return h
}

// left says what remains on the machine.
func (w *world) left() []string {
	var what []string
	ids, err := w.driver.List()
	if err != nil || len(ids) > 0 {
		what = append(what, fmt.Sprint("cells ", ids, err))
	}
	what = append(what, w.links.Left()...)
	entries, err := os.ReadDir(w.dir)
	if err != nil || len(entries) > 0 {
		what = append(what, fmt.Sprint("files ", entries, err))
	}
	return what
}

func (w *world) clean() {
	w.t.Helper()
	for _, what := range w.left() {
		w.t.Error("left: ", what)
	}
}

// apply gives an order and wants its answer.
func (w *world) apply(h *host.Host, o hutch.Order, want hutch.State) hutch.Fact {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	f, err := h.Apply(ctx, o)
	if err != nil || f.Is != want {
		w.t.Fatalf("%s of %s = %s %q, %v; want %s", o.Want, o.ID, f.Is, f.Err, err, want)
	}
	return f
}

func run(id hutch.SandboxID, gen uint64) hutch.Order {
	return hutch.Order{ID: id, Gen: gen, Want: hutch.Running, Spec: &hutch.Spec{Image: "i"}}
}

func kill(id hutch.SandboxID) hutch.Order {
	return hutch.Order{ID: id, Gen: 1000, Want: hutch.Gone, Why: hutch.ByRequest}
}

// next waits for news.
func (w *world) next(want hutch.State) hutch.Fact {
	w.t.Helper()
	select {
	case f := <-w.news:
		if f.Is != want {
			w.t.Fatalf("news %s %q, want %s", f.Is, f.Err, want)
		}
		return f
	case <-time.After(10 * time.Second):
		w.t.Fatal("no news")
		panic("unreachable")
	}
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	h := w.open()
	id := hutch.NewSandboxID()
	f := w.apply(h, run(id, 1), hutch.Running)
	if !f.Addr.IsValid() || len(f.Took) != 5 {
		t.Errorf("fact of a create: %+v", f)
	}
	for i, s := range []hutch.State{hutch.Paused, hutch.Paused, hutch.Running, hutch.Stopped, hutch.Stopped, hutch.Running, hutch.Paused, hutch.Stopped, hutch.Running} {
		o := hutch.Order{ID: id, Gen: uint64(i) + 2, Want: s}
		if f := w.apply(h, o, s); f.Err != "" {
			t.Errorf("%s: %s", s, f.Err)
		}
	}
	w.apply(h, kill(id), hutch.Gone)
	w.clean()
	w.apply(h, kill(id), hutch.Gone)
	if f := w.apply(h, run(id, 2000), hutch.Gone); f.Is != hutch.Gone {
		t.Error("a late order raised the dead")
	}
	w.clean()
}

func TestOlderOrderChangesNothing(t *testing.T) {
	w := newWorld(t)
	h := w.open()
	id := hutch.NewSandboxID()
	w.apply(h, run(id, 5), hutch.Running)
	w.apply(h, hutch.Order{ID: id, Gen: 4, Want: hutch.Paused}, hutch.Running)
	w.apply(h, kill(id), hutch.Gone)
}

// Every step of a making fails once; nothing may remain, and a kill after it
// says Gone. Then every way back fails once.
func TestFaultAtEveryStep(t *testing.T) {
	steps := []string{"slot", "rootfs", "network", "start", "handshake"}
	for _, bad := range steps {
		t.Run(bad, func(t *testing.T) {
			w := newWorld(t)
			w.fault = func(_ hutch.SandboxID, step string) error {
				if step == bad {
					return errors.New("injected")
				}
				return nil
			}
			h := w.open()
			id := hutch.NewSandboxID()
			if f := w.apply(h, run(id, 1), hutch.Gone); f.Why != hutch.ByFailure || f.Err == "" {
				t.Errorf("fact: %+v", f)
			}
			w.clean()
			w.apply(h, kill(id), hutch.Gone)
		})
	}
	for _, bad := range []string{"undo network", "undo cell"} {
		t.Run(bad, func(t *testing.T) {
			w := newWorld(t)
			var once sync.Once
			w.fault = func(_ hutch.SandboxID, step string) (err error) {
				if step == bad {
					once.Do(func() { err = errors.New("injected") })
				}
				return err
			}
			h := w.open()
			id := hutch.NewSandboxID()
			w.apply(h, run(id, 1), hutch.Running)
			if f := w.apply(h, kill(id), hutch.Failed); f.Err == "" {
				t.Errorf("fact: %+v", f)
			}
			// Not gone is not forgotten: the host goes on by itself.
			w.next(hutch.Gone)
			w.apply(h, kill(id), hutch.Gone)
			w.clean()
		})
	}
}

// A kill comes while each step is under way, and does not wait for it.
func TestKillAtEveryStep(t *testing.T) {
	for _, at := range []string{"slot", "rootfs", "network", "start", "handshake"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			reached, release := make(chan struct{}), make(chan struct{})
			w.fault = func(_ hutch.SandboxID, step string) error {
				if step == at {
					close(reached)
					<-release
				}
				return nil
			}
			h := w.open()
			id := hutch.NewSandboxID()
			var wg sync.WaitGroup
			wg.Go(func() {
				// Running if the kills lose the race from here on, Gone if not.
				if f, err := h.Apply(t.Context(), run(id, 1)); err != nil || f.Is != hutch.Gone && f.Is != hutch.Running {
					t.Errorf("create = %+v, %v", f, err)
				}
			})
			<-reached
			for range 64 {
				wg.Go(func() { w.apply(h, kill(id), hutch.Gone) })
			}
			close(release)
			wg.Wait()
			w.clean()
		})
	}
}

// A start that would take for ever is stopped by a kill.
func TestKillStopsASlowStart(t *testing.T) {
	w := newWorld(t)
	reached := make(chan struct{})
	w.driver.OnCreate = func(ctx context.Context, _ driver.Bundle) error {
		close(reached)
		<-ctx.Done()
		return ctx.Err()
	}
	h := w.open()
	id := hutch.NewSandboxID()
	var wg sync.WaitGroup
	wg.Go(func() { w.apply(h, run(id, 1), hutch.Gone) })
	<-reached
	w.apply(h, kill(id), hutch.Gone)
	wg.Wait()
	w.clean()
}

// A kill does not wait for the grace of a delete under way.
func TestKillOvertakesDelete(t *testing.T) {
	w := newWorld(t)
	reached := make(chan struct{})
	w.agent.OnShutdown = func(ctx context.Context) error {
		close(reached)
		<-ctx.Done()
		return ctx.Err()
	}
	h := w.open()
	id := hutch.NewSandboxID()
	w.apply(h, run(id, 1), hutch.Running)
	var wg sync.WaitGroup
	del := kill(id)
	del.Grace = time.Hour
	wg.Go(func() { w.apply(h, del, hutch.Gone) })
	<-reached
	w.apply(h, kill(id), hutch.Gone)
	wg.Wait()
	w.clean()
}

func TestKillBeforeCreateArrives(t *testing.T) {
	w := newWorld(t)
	h := w.open()
	id := hutch.NewSandboxID()
	w.apply(h, kill(id), hutch.Gone)
	w.apply(h, run(id, 1), hutch.Gone)
	w.clean()
}

func TestDeathIsNews(t *testing.T) {
	for why, exit := range map[hutch.Reason]driver.Exit{hutch.ByCrash: {}, hutch.ByOOM: {OOM: true}} {
		w := newWorld(t)
		h := w.open()
		id := hutch.NewSandboxID()
		w.apply(h, run(id, 1), hutch.Running)
		w.driver.Cell(id).Die(exit)
		if f := w.next(hutch.Gone); f.ID != id || f.Why != why {
			t.Errorf("news: %+v, want %s", f, why)
		}
		w.clean()
		w.apply(h, kill(id), hutch.Gone)
	}
}

func TestDeathDuringHandshake(t *testing.T) {
	w := newWorld(t)
	id := hutch.NewSandboxID()
	w.agent.OnGreet = func(ctx context.Context) error {
		w.driver.Cell(id).Die(driver.Exit{})
		<-ctx.Done()
		return ctx.Err()
	}
	w.apply(w.open(), run(id, 1), hutch.Gone)
	w.clean()
}

// What fails on the way to another state leaves the one before.
func TestFailedChangeChangesNothing(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("injected")
	var fail error
	w.driver.OnPause = func(context.Context, hutch.SandboxID) error { return fail }
	w.driver.OnResume = func(context.Context, hutch.SandboxID) error { return fail }
	w.driver.OnExport = func(context.Context, hutch.SandboxID, string) error { return fail }
	w.driver.OnCreate = func(context.Context, driver.Bundle) error { return fail }
	h := w.open()
	id := hutch.NewSandboxID()
	w.apply(h, run(id, 1), hutch.Running)
	gen := uint64(1)
	change := func(want, is hutch.State) {
		t.Helper()
		gen++
		w.apply(h, hutch.Order{ID: id, Gen: gen, Want: want}, is)
	}
	fail = broken
	change(hutch.Paused, hutch.Running)
	change(hutch.Stopped, hutch.Running)
	fail = nil
	change(hutch.Paused, hutch.Paused)
	fail = broken
	change(hutch.Running, hutch.Paused)
	fail = nil
	change(hutch.Stopped, hutch.Stopped)
	fail = broken
	change(hutch.Running, hutch.Stopped)
	fail = nil
	change(hutch.Running, hutch.Running)
	w.apply(h, kill(id), hutch.Gone)
	w.clean()
}

// The server ends and comes back in every state of a sandbox.
func TestRecover(t *testing.T) {
	for _, state := range []hutch.State{hutch.Running, hutch.Paused, hutch.Stopped} {
		t.Run(string(state), func(t *testing.T) {
			w := newWorld(t)
			h := w.open()
			id := hutch.NewSandboxID()
			w.apply(h, run(id, 1), hutch.Running)
			w.apply(h, hutch.Order{ID: id, Gen: 2, Want: state}, state)
			h.Close()

			h = w.open()
			facts, err := h.Inventory(t.Context())
			if err != nil || len(facts) != 1 || facts[0].ID != id || facts[0].Is != state {
				t.Fatalf("inventory = %+v, %v", facts, err)
			}
			w.apply(h, hutch.Order{ID: id, Gen: 3, Want: hutch.Running}, hutch.Running)
			w.apply(h, kill(id), hutch.Gone)
			w.clean()
		})
	}
}

func TestRecoverWhatDiedMeanwhile(t *testing.T) {
	w := newWorld(t)
	h := w.open()
	id := hutch.NewSandboxID()
	w.apply(h, run(id, 1), hutch.Running)
	h.Close()
	w.driver.Cell(id).Die(driver.Exit{})
	w.open()
	if f := w.next(hutch.Gone); f.Why != hutch.ByCrash {
		t.Errorf("news: %+v", f)
	}
	w.clean()
}

// A record, a cell and a network that nobody wrote the end of.
func TestRecoverLeftovers(t *testing.T) {
	w := newWorld(t)
	orphan := hutch.NewSandboxID()
	if _, err := w.driver.Create(t.Context(), driver.Bundle{ID: orphan}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.links.Attach(t.Context(), 7, true); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(w.dir, "not-a-record", "scratch"), 0o700); err != nil {
		t.Fatal(err)
	}
	half := hutch.NewSandboxID()
	if err := os.MkdirAll(filepath.Join(w.dir, string(half)), 0o700); err != nil {
		t.Fatal(err)
	}
	rec := fmt.Sprintf(`{"id":%q,"gen":1,"want":"running","is":"creating","slot":9}`, half)
	if err := os.WriteFile(filepath.Join(w.dir, string(half), "record.json"), []byte(rec), 0o600); err != nil {
		t.Fatal(err)
	}
	h := w.open()
	why := map[hutch.SandboxID]hutch.Reason{}
	for range 2 {
		f := w.next(hutch.Gone)
		why[f.ID] = f.Why
	}
	if why[half] != hutch.ByFailure || why[orphan] != hutch.ByOrphan {
		t.Errorf("news: %v", why)
	}
	h.Close() // waits for what is being cleared away
	w.clean()
}

func TestHostileOrders(t *testing.T) {
	h := newWorld(t).open()
	for _, id := range []hutch.SandboxID{"", "..", "../../etc", "s"} {
		if _, err := h.Apply(t.Context(), run(id, 1)); hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("Apply(%q): %v", id, err)
		}
	}
}

func TestClosedHostRefuses(t *testing.T) {
	w := newWorld(t)
	h := w.open()
	h.Close()
	if _, err := h.Apply(t.Context(), run(hutch.NewSandboxID(), 1)); hutch.KindOf(err) != hutch.Unavailable {
		t.Errorf("Apply after Close: %v", err)
	}
}

// A kill of a sandbox that the journal has lost waits for its end.
func TestKillOfAnOrphanIsProven(t *testing.T) {
	w := newWorld(t)
	id := hutch.NewSandboxID()
	if _, err := w.driver.Create(t.Context(), driver.Bundle{ID: id}); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	w.driver.OnDestroy = func(context.Context, hutch.SandboxID) error { <-release; return nil }
	h := w.open()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if f, err := h.Apply(ctx, kill(id)); err == nil {
		t.Errorf("killed = %+v while it lives", f)
	}
	close(release)
	w.apply(h, kill(id), hutch.Gone)
	w.clean()
}

// A guest that answers with a redirect does not send the host anywhere.
func TestHostStaysWithTheGuest(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the host followed a guest's redirect")
	}))
	defer elsewhere.Close()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.77:%d", hutch.AgentPort))
	if err != nil {
		t.Fatal(err)
	}
	guest := httptest.NewUnstartedServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	guest.Listener.Close()
	guest.Listener = ln
	guest.Start()
	defer guest.Close()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := host.NewAgent(key).Greet(t.Context(), netip.MustParseAddr("127.0.0.77"), handshake.Identity{}); err == nil {
		t.Error("a redirect passes for a yes")
	}
}

// A retry that was due for a stopped sandbox does not touch its next life.
func TestRetryDoesNotOutliveItsReason(t *testing.T) {
	w := newWorld(t)
	var once sync.Once
	w.fault = func(_ hutch.SandboxID, step string) (err error) {
		if step == "undo network" {
			once.Do(func() { err = errors.New("injected") })
		}
		return err
	}
	h := w.open()
	id := hutch.NewSandboxID()
	w.apply(h, run(id, 1), hutch.Running)
	w.apply(h, hutch.Order{ID: id, Gen: 2, Want: hutch.Stopped}, hutch.Stopped)
	w.apply(h, hutch.Order{ID: id, Gen: 3, Want: hutch.Running}, hutch.Running)
	select {
	case f := <-w.news:
		t.Errorf("news of a healthy sandbox: %+v", f)
	case <-time.After(300 * time.Millisecond): // the retry was due after 100
	}
	w.apply(h, kill(id), hutch.Gone)
	w.clean()
}

// Two records that name one slot cannot keep the server from starting; the one
// that should live does.
func TestRecoverTwoRecordsOfOneSlot(t *testing.T) {
	w := newWorld(t)
	h := w.open()
	id := hutch.NewSandboxID()
	w.apply(h, run(id, 1), hutch.Running)
	h.Close()
	dying := hutch.SandboxID("s" + strings.Repeat("a", 20)) // read first
	if err := os.MkdirAll(filepath.Join(w.dir, string(dying)), 0o700); err != nil {
		t.Fatal(err)
	}
	rec := fmt.Sprintf(`{"id":%q,"gen":1,"want":"gone","is":"running","slot":0}`, dying)
	if err := os.WriteFile(filepath.Join(w.dir, string(dying), "record.json"), []byte(rec), 0o600); err != nil {
		t.Fatal(err)
	}
	h = w.open()
	w.next(hutch.Gone)
	w.apply(h, hutch.Order{ID: id, Gen: 2, Want: hutch.Paused}, hutch.Paused)
	w.apply(h, kill(id), hutch.Gone)
	w.clean()
}
