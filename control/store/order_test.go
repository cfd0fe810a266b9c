package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	hutch "github.com/hutch-sh/hutch"
)

// possible are the (want, is) pairs a row can be in, and what each target
// does: 'c' changes, 'j' is joined, 'x' is Conflict, 'n' is NotFound.
var possible = []struct {
	want, is                       hutch.State
	running, paused, stopped, gone byte
}{
	{hutch.Running, hutch.Creating, 'j', 'x', 'x', 'c'},
	{hutch.Running, hutch.Running, 'j', 'c', 'c', 'c'},
	{hutch.Running, hutch.Paused, 'j', 'x', 'x', 'c'},
	{hutch.Running, hutch.Stopped, 'j', 'x', 'x', 'c'},
	{hutch.Running, hutch.Failed, 'j', 'x', 'x', 'c'},
	{hutch.Paused, hutch.Creating, 'x', 'j', 'x', 'c'},
	{hutch.Paused, hutch.Running, 'x', 'j', 'x', 'c'},
	{hutch.Paused, hutch.Paused, 'c', 'j', 'c', 'c'},
	{hutch.Paused, hutch.Stopped, 'x', 'j', 'x', 'c'},
	{hutch.Paused, hutch.Failed, 'x', 'j', 'x', 'c'},
	{hutch.Stopped, hutch.Creating, 'x', 'x', 'j', 'c'},
	{hutch.Stopped, hutch.Running, 'x', 'x', 'j', 'c'},
	{hutch.Stopped, hutch.Paused, 'x', 'x', 'j', 'c'},
	{hutch.Stopped, hutch.Stopped, 'c', 'x', 'j', 'c'},
	{hutch.Stopped, hutch.Failed, 'x', 'x', 'j', 'c'},
	{hutch.Gone, hutch.Creating, 'n', 'n', 'n', 'j'},
	{hutch.Gone, hutch.Running, 'n', 'n', 'n', 'j'},
	{hutch.Gone, hutch.Paused, 'n', 'n', 'n', 'j'},
	{hutch.Gone, hutch.Stopped, 'n', 'n', 'n', 'j'},
	{hutch.Gone, hutch.Failed, 'n', 'n', 'n', 'j'},
	{hutch.Gone, hutch.Gone, 'n', 'n', 'n', 'j'},
}

// Every row a sandbox can be in × every order, on the database.
func TestOrderTable(t *testing.T) {
	db, ctx := open(t), t.Context()
	const gen = 5
	// The table above is complete: every pair that is not in it is impossible.
	insert(t, db, example("probe"))
	for _, want := range hutch.States {
		for _, is := range hutch.States {
			listed := slices.ContainsFunc(possible, func(p struct {
				want, is                       hutch.State
				running, paused, stopped, gone byte
			}) bool {
				return p.want == want && p.is == is
			})
			if err := force(db, "probe", want, is, gen); (err == nil) != listed {
				t.Errorf("want %s, is %s: listed %v, database says %v", want, is, listed, err)
			}
		}
	}

	n := 0
	for _, p := range possible {
		for _, c := range []struct {
			target hutch.State
			result byte
		}{{hutch.Running, p.running}, {hutch.Paused, p.paused}, {hutch.Stopped, p.stopped}, {hutch.Gone, p.gone},
			{hutch.Creating, 'i'}, {hutch.Failed, 'i'}, {"", 'i'}, {"zombie", 'i'}} {
			n++
			sb := example(fmt.Sprint("s", n))
			insert(t, db, sb)
			if err := force(db, sb.ID, p.want, p.is, gen); err != nil {
				t.Fatal(err)
			}
			before, _ := db.Find(ctx, sb.ID)
			name := fmt.Sprintf("want %s, is %s, order %s", p.want, p.is, c.target)

			// Somebody else's order changes nothing, whatever it is.
			if c.result != 'i' {
				_, changed, err := db.Order(ctx, 2, sb.ID, c.target, hutch.ByDrain)
				if changed || hutch.KindOf(err) != hutch.NotFound {
					t.Errorf("%s by another organization: %v, %v", name, changed, err)
				}
			}
			got, changed, err := db.Order(ctx, hutch.DefaultOrg, sb.ID, c.target, hutch.ByDrain)
			after, ferr := db.Find(ctx, sb.ID)
			if ferr != nil {
				t.Fatal(ferr)
			}
			expect := before
			switch c.result {
			case 'c':
				expect.Want, expect.Why, expect.Gen = c.target, hutch.ByDrain, gen+1
				if err != nil || !changed {
					t.Errorf("%s: %v, %v; want it made", name, changed, err)
				}
			case 'j':
				if err != nil || changed {
					t.Errorf("%s: %v, %v; want it joined", name, changed, err)
				}
			case 'x':
				if changed || hutch.KindOf(err) != hutch.Conflict || !strings.Contains(err.Error(), string(p.is)) {
					t.Errorf("%s: %v, %v; want Conflict naming the state", name, changed, err)
				}
			case 'n':
				if changed || hutch.KindOf(err) != hutch.NotFound {
					t.Errorf("%s: %v, %v; want NotFound", name, changed, err)
				}
			case 'i':
				if changed || err == nil || hutch.KindOf(err) != hutch.Internal {
					t.Errorf("%s: %v, %v; want Internal", name, changed, err)
				}
			}
			for what, sb := range map[string]hutch.Sandbox{"returned": got, "kept": after} {
				if sb.Want != expect.Want || sb.Why != expect.Why || sb.Gen != expect.Gen || sb.Is != expect.Is || sb.Addr != expect.Addr {
					t.Errorf("%s: %s %s/%s/%s/%d, want %s/%s/%s/%d", name, what, sb.Want, sb.Is, sb.Why, sb.Gen, expect.Want, expect.Is, expect.Why, expect.Gen)
				}
			}
		}
	}
	_, _, err := db.Order(ctx, 1, "absent", hutch.Gone, hutch.ByRequest)
	wantKind(t, err, hutch.NotFound)
	_, _, err = db.OrderAny(ctx, "absent", hutch.Gone, hutch.ByRequest)
	wantKind(t, err, hutch.NotFound)
}

// Every row × every fact × older, newest and impossible generation.
func TestRecordTable(t *testing.T) {
	db, ctx := open(t), t.Context()
	const gen = 5
	at := epoch.Add(time.Minute)
	addr := netip.MustParseAddr("10.9.9.9")
	n := 0
	for _, p := range possible {
		for _, is := range append([]hutch.State{""}, hutch.States...) {
			for _, fgen := range []uint64{0, gen - 1, gen, gen + 1} {
				for _, why := range []hutch.Reason{"", hutch.ByOOM} {
					n++
					sb := example(fmt.Sprint("s", n))
					insert(t, db, sb)
					if err := force(db, sb.ID, p.want, p.is, gen); err != nil {
						t.Fatal(err)
					}
					before, _ := db.Find(ctx, sb.ID)
					f := hutch.Fact{ID: sb.ID, Host: "h1", Gen: fgen, Is: is, Why: why, Addr: addr, At: at, Err: "told"}
					got, err := db.Record(ctx, f)
					after, ferr := db.Find(ctx, sb.ID)
					if err != nil || ferr != nil {
						t.Fatal(err, ferr)
					}

					want := before
					switch {
					case is == hutch.Gone && p.is != hutch.Gone:
						want.Is, want.Want, want.Ended, want.Addr, want.Fault = hutch.Gone, hutch.Gone, at, netip.Addr{}, "told"
						if p.want != hutch.Gone { // an order's reason stands
							want.Why = why
							if why == "" {
								want.Why = hutch.ByCrash
							}
						}
					case is == hutch.Gone, is == hutch.Creating, is == "", p.want == hutch.Gone, p.is == hutch.Failed, fgen != gen:
						// nothing
					default:
						want.Is, want.Fault, want.Addr = is, "told", netip.Addr{}
						if is == hutch.Running || is == hutch.Paused {
							want.Addr = addr
						}
						if is == hutch.Running {
							want.Started = at
						}
						if is == hutch.Failed && why != "" {
							want.Why = why
						}
					}
					for what, sb := range map[string]hutch.Sandbox{"returned": got, "kept": after} {
						if sb.Want != want.Want || sb.Is != want.Is || sb.Why != want.Why || sb.Gen != want.Gen || sb.Addr != want.Addr ||
							sb.Fault != want.Fault || !sb.Started.Equal(want.Started) || !sb.Ended.Equal(want.Ended) {
							t.Errorf("want %s, is %s; fact %s gen %d why %q: %s\n%+v, want\n%+v", p.want, p.is, is, fgen, why, what, sb, want)
						}
					}
				}
			}
		}
	}
	_, err := db.Record(ctx, hutch.Fact{ID: "absent", Is: hutch.Gone})
	wantKind(t, err, hutch.NotFound)
}

func TestFactOfAnotherHostIsNotBelieved(t *testing.T) {
	db, ctx := open(t), t.Context()
	was := insert(t, db, example("s1"))
	for _, is := range []hutch.State{hutch.Gone, hutch.Running, hutch.Failed} {
		_, err := db.Record(ctx, hutch.Fact{ID: "s1", Host: "h2", Gen: 1, Is: is, At: epoch})
		wantKind(t, err, hutch.Internal)
	}
	if sb, err := db.Find(ctx, "s1"); err != nil || sb.Is != was.Is || sb.Want != was.Want {
		t.Fatal(sb, err)
	}
}

func TestStartedIsTheFirstTime(t *testing.T) {
	db, ctx := open(t), t.Context()
	insert(t, db, example("s1"))
	for i := range 3 {
		if _, err := db.Record(ctx, hutch.Fact{ID: "s1", Gen: 1, Is: hutch.Running, At: epoch.Add(time.Duration(i) * time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if sb, _ := db.Find(ctx, "s1"); !sb.Started.Equal(epoch) {
		t.Fatal(sb.Started)
	}
	// A fact that does not say when happened now.
	before := time.Now().Add(-time.Second)
	if sb, err := db.Record(ctx, hutch.Fact{ID: "s1", Is: hutch.Gone}); err != nil || sb.Ended.Before(before) {
		t.Fatal(sb.Ended, err)
	}
}

func TestRetract(t *testing.T) {
	db, ctx := open(t), t.Context()
	const gen = 5
	for i, p := range possible {
		for _, g := range []uint64{gen - 1, gen, gen + 1} {
			sb := example(fmt.Sprint("s", i, "-", g))
			insert(t, db, sb)
			if err := force(db, sb.ID, p.want, p.is, gen); err != nil {
				t.Fatal(err)
			}
			got, err := db.Retract(ctx, sb.ID, g)
			after, ferr := db.Find(ctx, sb.ID)
			if err != nil || ferr != nil {
				t.Fatal(err, ferr)
			}
			want, wantGen := p.want, uint64(gen)
			settled := p.is == hutch.Running || p.is == hutch.Paused || p.is == hutch.Stopped
			if g == gen && p.want != hutch.Gone && p.want != p.is && settled {
				want, wantGen = p.is, gen+1
			}
			for _, sb := range []hutch.Sandbox{got, after} {
				if sb.Want != want || sb.Gen != wantGen || sb.Is != p.is {
					t.Errorf("want %s, is %s, retract %d: %s/%s/%d", p.want, p.is, g, sb.Want, sb.Is, sb.Gen)
				}
			}
		}
	}
	_, err := db.Retract(ctx, "absent", 1)
	wantKind(t, err, hutch.NotFound)
}

// Of many equal orders exactly one is made and all see its generation.
func TestConcurrentOrdersAreOne(t *testing.T) {
	db, ctx := open(t), t.Context()
	for _, target := range []hutch.State{hutch.Paused, hutch.Stopped, hutch.Gone} {
		for round := range 5 {
			sb := example(fmt.Sprint(target, round))
			insert(t, db, sb)
			if _, err := db.Record(ctx, hutch.Fact{ID: sb.ID, Gen: 1, Is: hutch.Running, At: epoch}); err != nil {
				t.Fatal(err)
			}
			var made atomic.Int32
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					got, changed, err := db.Order(ctx, 1, sb.ID, target, hutch.ByRequest)
					if err != nil || got.Want != target || got.Gen != 2 {
						t.Errorf("%s: %+v, %v", target, got, err)
					}
					if changed {
						made.Add(1)
					}
				})
			}
			wg.Wait()
			if made.Load() != 1 {
				t.Fatalf("%d orders for %s were made, want 1", made.Load(), target)
			}
		}
	}
}

// Orders and facts of every kind at once: gone stays gone, generations only
// grow, one kill is made, and no row is ever in an impossible state (the
// schema's checks would fail the write).
func TestRandomHistoriesKeepInvariants(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	db := open(t)
	targets := []hutch.State{hutch.Running, hutch.Paused, hutch.Stopped, hutch.Gone}
	for round := range 8 {
		id := hutch.SandboxID(fmt.Sprint("s", round))
		insert(t, db, example(string(id)))
		var kills atomic.Int32
		var wg sync.WaitGroup
		for w := range 8 {
			rnd := rand.New(rand.NewPCG(seed, uint64(round*100+w)))
			wg.Go(func() {
				var gen uint64
				gone := false
				for range 60 {
					sb, err := step(t.Context(), db, id, rnd, targets, &kills)
					if err != nil {
						t.Error(err)
						return
					}
					if sb.Gen < gen {
						t.Errorf("generation fell from %d to %d", gen, sb.Gen)
					}
					if gone && (sb.Is != hutch.Gone || sb.Want != hutch.Gone) {
						t.Errorf("came back: %+v", sb)
					}
					gen, gone = sb.Gen, sb.Is == hutch.Gone
				}
			})
		}
		wg.Wait()
		if kills.Load() > 1 {
			t.Errorf("%d kills were made", kills.Load())
		}
	}
}

func step(ctx context.Context, db *DB, id hutch.SandboxID, rnd *rand.Rand, targets []hutch.State, kills *atomic.Int32) (hutch.Sandbox, error) {
	now, err := db.Find(ctx, id)
	if err != nil {
		return now, err
	}
	if rnd.IntN(2) == 0 {
		// Gone rarely, so that the rest of the table is walked too.
		target := targets[rnd.IntN(3)]
		if rnd.IntN(100) == 0 {
			target = hutch.Gone
		}
		sb, changed, err := db.OrderAny(ctx, id, target, hutch.ByRequest)
		if changed && target == hutch.Gone {
			kills.Add(1)
		}
		if k := hutch.KindOf(err); err != nil && k != hutch.Conflict && k != hutch.NotFound {
			return sb, err
		}
		return sb, nil
	}
	is := now.Want
	if rnd.IntN(4) == 0 {
		is = hutch.States[rnd.IntN(len(hutch.States)-2)]
	}
	return db.Record(ctx, hutch.Fact{ID: id, Host: "h1", Gen: now.Gen - uint64(rnd.IntN(2)), Is: is, At: epoch})
}

func TestErrorsSayWhere(t *testing.T) {
	db := open(t)
	_, err := db.Find(t.Context(), "absent")
	if e, ok := errors.AsType[*hutch.Error](err); !ok || e.Op != "store.Find" || e.Msg != "Sandbox not found" {
		t.Fatal(err)
	}
}
