// Package model runs whole lives of sandboxes through the real lifecycle, the
// real store and the real host on a driver that isolates nothing, with orders,
// restarts, failures and lost replies in random order, and checks what must
// always hold: when all is quiet, rows, journal and machine agree, and what was
// killed stays killed. A failing history prints its seed; -model.seed=N runs it
// again.
package model

import (
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/cluster"
	"github.com/hutch-sh/hutch/control/lifecycle"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/host"
	"github.com/hutch-sh/hutch/host/driver"
	"github.com/hutch-sh/hutch/host/driver/fake"
	"github.com/hutch-sh/hutch/host/hosttest"
	"go.uber.org/goleak"
)

var (
	seeds = flag.Int("model.seeds", 40, "how many random histories to run")
	seed  = flag.Uint64("model.seed", 0, "run this one history")
	steps = flag.Int("model.steps", 60, "acts in one history")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const org = hutch.DefaultOrg

// world is a server on a machine and a database that outlive it.
type world struct {
	t      testing.TB
	dir    string
	db     *store.DB
	driver *fake.Driver
	links  *hosttest.Links
	key    ed25519.PrivateKey

	host *host.Host
	life *lifecycle.Manager

	mu     sync.Mutex
	rnd    *rand.Rand
	flaky  float64 // how often something fails
	killed map[hutch.SandboxID]bool
	made   []hutch.SandboxID
}

func newWorld(t testing.TB, seed uint64) *world {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	db, err := store.Open(context.Background(), filepath.Join(dir, "hutch.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w := &world{
		t: t, rnd: rand.New(rand.NewPCG(seed, 0)), dir: dir, db: db, driver: new(fake.Driver),
		links: hosttest.NewLinks(), key: key, killed: map[hutch.SandboxID]bool{},
	}
	_, err = db.PutTemplate(context.Background(), hutch.Template{
		Org: org, Name: "base", Public: true, Status: hutch.TemplateActive, Image: "i", Created: time.Now(), Updated: time.Now(),
		Default: hutch.Resources{VCPU: 1, MemoryMB: 64, DiskMB: 64},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.driver.OnCreate = func(context.Context, driver.Bundle) error { return w.maybe("create") }
	w.driver.OnDestroy = func(context.Context, hutch.SandboxID) error { return w.maybe("destroy") }
	w.driver.OnPause = func(context.Context, hutch.SandboxID) error { return w.maybe("pause") }
	w.driver.OnResume = func(context.Context, hutch.SandboxID) error { return w.maybe("resume") }
	w.driver.OnExport = func(context.Context, hutch.SandboxID, string) error { return w.maybe("export") }
	w.start()
	return w
}

// maybe fails now and then.
func (w *world) maybe(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rnd.Float64() < w.flaky {
		return errors.New("injected: " + what)
	}
	return nil
}

func (w *world) setFlaky(f float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flaky = f
}

func (w *world) draw(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rnd.IntN(n)
}

// Apply implements lifecycle.Hosts over a corridor that loses orders and replies.
func (w *world) Apply(ctx context.Context, id hutch.HostID, o hutch.Order) (hutch.Fact, error) {
	if err := w.maybe("order lost"); err != nil {
		return hutch.Fact{}, err
	}
	f, err := (&cluster.Solo{ID: "h", Local: w.host}).Apply(ctx, id, o)
	if lost := w.maybe("reply lost"); lost != nil {
		return hutch.Fact{}, lost
	}
	return f, err
}

func (w *world) start() {
	life := lifecycle.New(lifecycle.Config{Store: w.db, Hosts: w, Host: "h", TokenKey: w.key, Grace: time.Millisecond})
	h, err := host.Open(context.Background(), host.Config{
		ID: "h", Dir: filepath.Join(w.dir, "host"), Driver: w.driver, Network: w.links, Images: hosttest.Images{},
		Guest: new(hosttest.Agent), Key: w.key,
		News:  func(f hutch.Fact) { life.News(context.Background(), f) },
		Fault: func(_ hutch.SandboxID, step string) error { return w.maybe(step) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.life, w.host = life, h
	facts, err := h.Inventory(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	if err := life.Adopt(context.Background(), "h", facts); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop() {
	w.host.Close()
	w.life.Wait()
}

// quiet lets everything that was ordered come to its end.
func (w *world) quiet() {
	w.t.Helper()
	w.setFlaky(0)
	var err error
	for began := time.Now(); time.Since(began) < 30*time.Second; {
		if err = w.life.Tick(context.Background()); err != nil {
			w.t.Fatal(err)
		}
		if err = w.agree(); err == nil {
			return
		}
		<-time.After(20 * time.Millisecond) // the host tries failed ways back on its own clock
	}
	w.t.Fatal("never quiet: ", err)
}

// agree checks that rows and machine say the same.
func (w *world) agree() error {
	live, err := w.db.Live(context.Background(), "h")
	if err != nil {
		return err
	}
	facts, err := w.host.Inventory(context.Background())
	if err != nil {
		return err
	}
	is := map[hutch.SandboxID]hutch.State{}
	for _, f := range facts {
		is[f.ID] = f.Is
	}
	cells := 0
	for _, sb := range live {
		switch {
		case w.killed[sb.ID]:
			w.t.Fatalf("%s was killed and lives", sb.ID)
		case sb.Is != is[sb.ID]:
			return fmt.Errorf("%s: row says %s, host says %q", sb.ID, sb.Is, is[sb.ID])
		case sb.Is != sb.Want && sb.Is != hutch.Failed:
			return fmt.Errorf("%s: is %s, wanted %s", sb.ID, sb.Is, sb.Want)
		case sb.Is == hutch.Running || sb.Is == hutch.Paused:
			cells++
			if w.driver.Cell(sb.ID) == nil {
				return fmt.Errorf("%s: row says %s, no cell", sb.ID, sb.Is)
			}
		}
		delete(is, sb.ID)
	}
	if len(is) > 0 {
		return fmt.Errorf("held and wanted by no row: %v", is)
	}
	if ids, err := w.driver.List(); err != nil || len(ids) < cells {
		return fmt.Errorf("%d cells for %d rows, %w", len(ids), cells, err)
	}
	return nil
}

// act does one random thing, as a client or as fate. Only a lone caller may
// restart the server.
func (w *world) act(alone bool) {
	ctx := context.Background()
	what, n := w.draw(100), w.draw(1<<20)
	w.mu.Lock()
	var id hutch.SandboxID
	if len(w.made) > 0 {
		id = w.made[n%len(w.made)]
	}
	w.mu.Unlock()
	var err error
	switch {
	case what < 25 || id == "":
		err = w.create(ctx, what%5 == 0)
	case what < 45:
		err = w.kill(ctx, id)
	case what < 50:
		err = w.life.Delete(ctx, org, id, time.Millisecond)
	case what < 60:
		_, err = w.life.Pause(ctx, org, id)
	case what < 70:
		_, err = w.life.Resume(ctx, org, id)
	case what < 77:
		_, err = w.life.Stop(ctx, org, id)
	case what < 84:
		_, err = w.life.Start(ctx, org, id)
	case what < 88:
		_, err = w.life.SetTimeout(ctx, org, id, time.Millisecond)
	case what < 92:
		if c := w.driver.Cell(id); c != nil {
			c.Die(driver.Exit{OOM: what%2 == 0})
		}
	case alone && what < 95:
		err = w.life.Tick(ctx)
	case alone:
		w.stop()
		w.start()
	}
	switch hutch.KindOf(err) {
	case hutch.NotFound, hutch.Conflict, hutch.Unavailable, hutch.Internal, hutch.Canceled:
	default:
		w.t.Errorf("unexpected error: %v", err)
	}
}

func (w *world) create(ctx context.Context, impatient bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if impatient {
		cancel()
	}
	sb, _, err := w.life.Create(ctx, lifecycle.CreateRequest{Org: org, Template: "base"})
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.made = append(w.made, sb.ID)
	}
	return err
}

func (w *world) kill(ctx context.Context, id hutch.SandboxID) error {
	err := w.life.Kill(ctx, org, id)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.killed[id] = true
		if w.driver.Cell(id) != nil {
			w.t.Errorf("kill of %s answered while its cell is there", id)
		}
	}
	return err
}

func TestRandomHistories(t *testing.T) {
	first, n := uint64(1), *seeds
	if *seed != 0 {
		first, n = *seed, 1
	}
	for s := first; s < first+uint64(n); s++ {
		t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
			w := newWorld(t, s)
			w.setFlaky(0.08)
			for range *steps {
				w.act(true)
			}
			w.quiet()
			w.end()
		})
	}
}

// The same with several clients at once; here replies race.
func TestConcurrentHistories(t *testing.T) {
	for s := range uint64(max(*seeds/8, 1)) {
		t.Run(fmt.Sprint("seed=", s), func(t *testing.T) {
			w := newWorld(t, s)
			for range 3 {
				w.setFlaky(0.03)
				var wg sync.WaitGroup
				for range 8 {
					wg.Go(func() {
						for range *steps / 6 {
							w.act(false)
						}
					})
				}
				wg.Wait()
				w.quiet()
				w.stop()
				w.start()
			}
			w.quiet()
			w.end()
		})
	}
}

// end kills everything, in whatever state it is, and wants nothing left.
func (w *world) end() {
	w.t.Helper()
	err := w.life.KillAll(context.Background(), hutch.ByDrain, func(id hutch.SandboxID, err error) {
		if err != nil {
			w.t.Errorf("kill of %s: %v", id, err)
		}
	})
	if err != nil {
		w.t.Error(err)
	}
	w.stop()
	for _, what := range w.links.Left() {
		w.t.Error("left: ", what)
	}
	if ids, err := w.driver.List(); err != nil || len(ids) > 0 {
		w.t.Error("left: cells ", ids, err)
	}
	if entries, err := os.ReadDir(filepath.Join(w.dir, "host")); err != nil || len(entries) > 0 {
		w.t.Error("left: files ", entries, err)
	}
	if live, err := w.db.Live(context.Background(), "h"); err != nil || len(live) > 0 {
		w.t.Error("left: rows ", live, err)
	}
}
