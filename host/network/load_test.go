package network

import (
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/hutch-sh/hutch"
	"go.uber.org/goleak"
)

func TestManyAtOnce(t *testing.T) {
	n := open(t)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 6 {
				id := hutch.NewSandboxID()
				slot, err := n.Reserve(id)
				if err != nil {
					t.Error(err)
					return
				}
				l, err := n.Attach(t.Context(), slot, i%2 == 0)
				if err != nil {
					t.Error(err)
					return
				}
				g := newPlainGuest(t, l)
				if _, err := g.tcp(farWeb+":80", soon); (err == nil) != (i%2 == 0) {
					t.Errorf("worker %d, round %d: %v", w, i, err)
				}
				if err := n.Detach(slot); err != nil {
					t.Error(err)
					return
				}
				n.Free(slot)
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if err := n.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if found, err := n.Found(); err != nil || len(found) > 0 {
		t.Errorf("left: %v, %v", found, err)
	}
}

// cycles is how often TestNoLeaks attaches and detaches; HUTCH_CYCLES overrides.
const cycles = 300

func TestNoLeaks(t *testing.T) {
	n := open(t)
	rounds := cycles
	if v, err := strconv.Atoi(os.Getenv("HUTCH_CYCLES")); err == nil {
		rounds = v
	}
	round := func() {
		l := attach(t, n, 0, true)
		g := &plainGuest{t: t, link: l}
		if _, err := g.udp(l.DNS[0].String()+":53", soon); err != nil {
			t.Fatal(err)
		}
		if err := n.Detach(0); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		round()
	}
	n.deferred.Wait()
	before := goleak.IgnoreCurrent()
	look := func() map[string]string {
		return map[string]string{
			"mounts":      shell(t, "grep -F hutch-"+n.cfg.Tag+" /proc/self/mountinfo || true"), // others are copies of the machine's
			"rules":       shell(t, "nft -s list ruleset"),
			"interfaces":  shell(t, "ip -o link"),
			"routes":      shell(t, "ip route show table all"),
			"neighbours":  shell(t, "ip -4 neigh show nud permanent"),
			"connections": shell(t, "grep -F '"+n.Plan(0).Guest.String()+" ' /proc/net/nf_conntrack || true"),
		}
	}
	was := look()
	files, threads := entries(t, "/proc/self/fd"), entries(t, "/proc/self/task")
	for range rounds {
		round()
	}
	n.deferred.Wait()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	for what, is := range look() {
		if is != was[what] {
			t.Errorf("after %d cycles, %s:\n%s", rounds, what, difference(was[what], is))
		}
	}
	if k := entries(t, "/proc/self/fd"); k > files+4 { // the Go runtime's own
		t.Errorf("%d files are open, before it were %d", k, files)
	}
	// The runtime starts a thread when others are busy in the kernel and keeps
	// it, so the number settles slowly; a leak would be one in each round.
	if k := entries(t, "/proc/self/task"); k > threads+rounds/10 {
		t.Errorf("there are %d threads, before it were %d", k, threads)
	}
}

func entries(t testing.TB, dir string) int {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}
