package network

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch"
	"github.com/vishvananda/netlink"
)

// left lists everything of the installation that is in the kernel for a slot.
func left(t testing.TB, n *Net, slot int) []string {
	t.Helper()
	l := n.Plan(slot)
	var out []string
	if _, err := os.Lstat(l.NetNS); err == nil {
		out = append(out, "namespace "+l.NetNS)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), " "+l.NetNS+" ") {
		out = append(out, "mount "+l.NetNS)
	}
	if _, err := net.InterfaceByName(l.HostIf); err == nil {
		out = append(out, "link "+l.HostIf)
	}
	for _, line := range strings.Split(shell(t, "nft list ruleset"), "\n") {
		if strings.Contains(line, `"`+l.HostIf+`"`) || strings.Contains(line, l.Guest.String()+" ct count") {
			out = append(out, "element "+strings.TrimSpace(line))
		}
	}
	for _, line := range strings.Split(shell(t, "cat /proc/net/nf_conntrack"), "\n") {
		if strings.Contains(line, "src="+l.Guest.String()+" ") || strings.Contains(line, "dst="+l.Guest.String()+" ") {
			out = append(out, "connection "+line)
		}
	}
	if routes := shell(t, "ip route show table all | grep -F '"+l.Gateway.String()+"' || true"); routes != "" {
		out = append(out, "route "+routes)
	}
	found, err := n.Found()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(found, slot) {
		out = append(out, "Found tells of it")
	}
	return out
}

func TestDetachLeavesNothing(t *testing.T) {
	n := open(t)
	l := attach(t, n, 5, true)
	g := newPlainGuest(t, l)
	g.listen("7777")
	for _, p := range openProbes() {
		if _, err := p.try(g, soon); err != nil {
			t.Fatal(p, err)
		}
	}
	if err := g.hold(farWeb + ":80"); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", l.Guest.String()+":7777", soon)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if is := left(t, n, 5); len(is) < 6 {
		t.Fatalf("the test does not see what is there: %v", is)
	}
	for range 2 {
		if err := n.Detach(5); err != nil {
			t.Fatal(err)
		}
		if is := left(t, n, 5); len(is) > 0 {
			t.Errorf("after Detach there is: %v", lines(is))
		}
	}
}

// On kernels that cannot delete connections by address, one by one must do.
func TestForgettingOneByOne(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	g := newPlainGuest(t, l)
	for _, p := range openProbes() {
		if _, err := p.try(g, soon); err != nil {
			t.Fatal(p, err)
		}
	}
	if !strings.Contains(strings.Join(left(t, n, 0), "\n"), "connection ") {
		t.Fatal("there are no connections to forget")
	}
	if err := deleteFlows(l.Guest); err != nil {
		t.Fatal(err)
	}
	if is := strings.Join(left(t, n, 0), "\n"); strings.Contains(is, "connection ") {
		t.Errorf("still there: %s", is)
	}
}

// Whatever step fails, nothing is left, and the next try succeeds.
func TestAttachFailsAtEveryStep(t *testing.T) {
	n := open(t)
	broken := errors.New("broken on purpose")
	hit := 0
	for at := 1; ; at++ {
		count, failed := 0, ""
		n.step = func(name string) error {
			if count++; count == at {
				failed = name
				return broken
			}
			return nil
		}
		_, err := n.Attach(t.Context(), 2, at%2 == 0)
		n.step = func(string) error { return nil }
		if failed == "" {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		hit++
		if !errors.Is(err, broken) || hutch.KindOf(err) != hutch.Internal {
			t.Fatalf("step %s failed and Attach says %v", failed, err)
		}
		if is := left(t, n, 2); len(is) > 0 {
			t.Errorf("step %s failed and left: %v", failed, lines(is))
		}
	}
	if hit < 8 {
		t.Errorf("only %d steps were made to fail", hit)
	}
}

// A crash at any step of either leaves something that Found tells of, that the
// next Attach of the slot gets rid of, and that Detach removes.
func TestCrashAtEveryStep(t *testing.T) {
	n := open(t)
	// crash runs f and lets no step from the at-th on happen.
	crash := func(at int, f func() error) (step string) {
		crashed := errors.New("crashed")
		count := 0
		n.step = func(name string) error {
			if count++; count < at {
				return nil
			}
			if step == "" {
				step = name
			}
			return crashed
		}
		defer func() { n.step = func(string) error { return nil } }()
		if err := f(); err != nil && !errors.Is(err, crashed) || err == nil && step != "" {
			t.Fatal(err)
		}
		return step
	}
	makeAll := func() error {
		l := n.Plan(4)
		var inside *netlink.Handle
		err := n.inThread(func() (err error) {
			inside, err = n.makeGuestSide(l, defaultMTU)
			return err
		})
		if inside != nil {
			defer inside.Close()
		}
		if err != nil {
			return err
		}
		return n.makeHostSide(l, true, inside)
	}
	for _, f := range []struct {
		name string
		run  func(int) string
	}{
		{"attach", func(at int) string { return crash(at, makeAll) }},
		{"detach", func(at int) string {
			attach(t, n, 4, true)
			return crash(at, func() error { return n.remove(n.Plan(4)) })
		}},
	} {
		for at := 1; ; at++ {
			step := f.run(at)
			if step == "" {
				break
			}
			if at > 1 && f.name == "attach" || f.name == "detach" {
				if found, err := n.Found(); err != nil || !slices.Equal(found, []int{4}) {
					t.Errorf("crash in %s before %s: Found says %v, %v", f.name, step, found, err)
				}
			}
			// Without internet: what is left of one with must not give it.
			l, err := n.Attach(t.Context(), 4, false)
			if err != nil {
				t.Fatalf("crash in %s before %s: %v", f.name, step, err)
			}
			g := newPlainGuest(t, l)
			if _, err := g.tcp(farWeb+":80", never); err == nil {
				t.Errorf("crash in %s before %s: the next guest has internet", f.name, step)
			}
			g.listen("7777")
			if c, err := net.DialTimeout("tcp", l.Guest.String()+":7777", soon); err != nil {
				t.Errorf("crash in %s before %s: the next guest cannot be reached: %v", f.name, step, err)
			} else {
				c.Close()
			}
			if err := n.Detach(4); err != nil {
				t.Fatal(err)
			}
			if is := left(t, n, 4); len(is) > 0 {
				t.Errorf("crash in %s before %s, then Detach, left: %v", f.name, step, lines(is))
			}
			f.run(at)
			if err := n.Detach(4); err != nil {
				t.Fatal(err)
			}
			if is := left(t, n, 4); len(is) > 0 {
				t.Errorf("crash in %s before %s, then Detach, left: %v", f.name, step, lines(is))
			}
		}
		if err := n.Detach(4); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAttachGivenUp(t *testing.T) {
	n := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	n.step = func(name string) error {
		if name == "up" {
			cancel()
		}
		return nil
	}
	if _, err := n.Attach(ctx, 0, true); hutch.KindOf(err) != hutch.Canceled {
		t.Errorf("err = %v", err)
	}
	if is := left(t, n, 0); len(is) > 0 {
		t.Errorf("left: %v", lines(is))
	}
}

// The filter is in, and drops, before the link can carry a packet.
func TestFilterComesFirst(t *testing.T) {
	n := open(t)
	seen := false
	n.step = func(name string) error {
		if name != "up" {
			return nil
		}
		seen = true
		l := n.Plan(0)
		if out := shell(t, "ip -o link show "+l.HostIf); strings.Contains(out, "UP") {
			t.Errorf("the link is up already: %s", out)
		}
		rules := shell(t, "nft list set inet "+n.tableName()+" guests; nft list set arp "+n.tableName()+" guests; tc filter show dev "+l.HostIf+" ingress")
		if strings.Count(rules, l.HostIf) != 2 || !strings.Contains(rules, ingressName) {
			t.Errorf("the filter is not in yet: %s", rules)
		}
		return nil
	}
	attach(t, n, 0, false)
	if !seen {
		t.Error("there is no such step")
	}
}

// A link that the filter was not told of, as if Attach forgot, carries nothing.
func TestUnknownLinkIsClosed(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	if err := n.expel(l); err != nil {
		t.Fatal(err)
	}
	g := newPlainGuest(t, l)
	g.listen("7777")
	mark := theLab.sniff.mark(t)
	if through := all(g, never, append(openProbes(), probe{"tcp", l.Gateway.String() + ":9000"})); len(through) > 0 {
		t.Errorf("through: %v", lines(through))
	}
	if pkts := theLab.sniff.since(t, mark); len(pkts) > 0 {
		t.Errorf("left the host: %v", lines(pkts))
	}
	if c, err := net.DialTimeout("tcp", l.Guest.String()+":7777", never); err == nil {
		c.Close()
		t.Error("it can answer the host")
	}
}
