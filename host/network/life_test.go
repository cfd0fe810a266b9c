package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
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

// A restart of the server does not touch guests: their connections go on, what
// they may is what it was, and there is no moment without filter.
func TestRestart(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			n := open(t)
			a, b := attach(t, n, 0, true), attach(t, n, 1, false)
			ga, gb := k.make(t, a), newPlainGuest(t, b)
			if err := ga.hold(farWeb + ":80"); err != nil {
				t.Fatal(err)
			}
			gb.listen("7777")
			in, err := net.DialTimeout("tcp", b.Guest.String()+":7777", soon)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()

			raw := rawSocket(t, b)
			stop := make(chan struct{})
			var flood sync.WaitGroup
			var sent atomic.Int64
			flood.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					for _, dst := range []string{farWeb, "10.0.0.5", a.Guest.String()} {
						raw.send(t, b.hostMAC(), unix.ETH_P_IP, ipPacket(b.Guest.String(), dst, 17, udpTo(8080)))
						sent.Add(1)
					}
				}
			})
			mark := theLab.sniff.mark(t)
			for i := range 30 {
				n = reopen(t, n)
				if said, err := ga.say("still there?"); err != nil || said != "still there?" {
					t.Fatalf("restart %d: the guest's connection: %q, %v", i, said, err)
				}
			}
			close(stop)
			flood.Wait()
			for _, p := range theLab.sniff.since(t, mark) {
				if p.dst.String() != farWeb || p.dport != 80 {
					t.Errorf("%v left while restarting", p)
				}
			}
			t.Logf("%d forbidden packets were sent during 30 restarts", sent.Load())
			if sent.Load() < 1000 {
				t.Error("too few to show anything")
			}
			if _, err := fmt.Fprintln(in, "hello"); err != nil {
				t.Error(err)
			}
			if _, err := gb.tcp(farWeb+":80", never); err == nil {
				t.Error("the guest without internet has it now")
			}
			if _, err := ga.tcp(farWeb2+":80", soon); err != nil {
				t.Errorf("the guest with internet lost it: %v", err)
			}
			if found, err := n.Found(); err != nil || !slices.Equal(found, []int{0, 1}) {
				t.Errorf("Found says %v, %v", found, err)
			}
		})
	}
}

// A flush of the whole ruleset, as a firewall service does when it starts.
func TestFlush(t *testing.T) {
	n := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := n.Watch(ctx); err != nil {
			t.Error(err)
		}
	})
	defer watching.Wait()
	defer cancel()
	a, b := attach(t, n, 0, true), attach(t, n, 1, false)
	ga, gb := newPlainGuest(t, a), newPlainGuest(t, b)
	if err := ga.hold(farWeb + ":80"); err != nil {
		t.Fatal(err)
	}
	whole := func() bool {
		n.gate.Lock()
		defer n.gate.Unlock()
		ok, _, err := n.intact()
		return ok && err == nil
	}
	eventually(t, "the filter is whole", whole)
	for range 3 {
		for _, harm := range []string{"nft flush ruleset", "nft delete table inet " + n.tableName(), "nft flush chain inet " + n.tableName() + " out", "nft flush table arp " + n.tableName()} {
			mark := theLab.sniff.mark(t)
			shell(t, harm)
			began := time.Now()
			eventually(t, "the filter is back after "+harm, whole)
			t.Logf("%s: whole again after at most %v", harm, time.Since(began))
			for _, p := range theLab.sniff.since(t, mark) {
				if p.src == b.Guest {
					t.Errorf("%s: %v left", harm, p)
				}
			}
		}
	}
	if said, err := ga.say("hello"); err != nil || said != "hello" {
		t.Errorf("the connection: %q, %v", said, err)
	}
	// While nobody watches, what does not need nftables holds: a guest without
	// internet has none, nobody has IPv6 or a foreign address.
	cancel()
	watching.Wait()
	shell(t, "nft flush ruleset")
	raw := rawSocket(t, a)
	mark := theLab.sniff.mark(t)
	raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket("7.7.7.7", farWeb, 17, udpTo(8080)))
	ps := append(openProbes(), probe{"tcp", "10.0.0.5:80"})
	if through := all(gb, never, ps); len(through) > 0 {
		t.Errorf("without any rules: %v", lines(through))
	}
	if pkts := theLab.sniff.since(t, mark); len(pkts) > 0 {
		t.Errorf("without any rules these left: %v", lines(pkts))
	}
	if err := n.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if through := all(ga, never, []probe{{"tcp", "10.0.0.5:80"}, {"tcp", a.Gateway.String() + ":9000"}}); len(through) > 0 {
		t.Errorf("through: %v", lines(through))
	}
	if _, err := gb.tcp(farWeb+":80", never); err == nil {
		t.Error("the guest without internet has it")
	}
}

// Attach does not need Watch to find out.
func TestAttachAfterFlush(t *testing.T) {
	n := open(t)
	a := attach(t, n, 0, true)
	shell(t, "nft flush ruleset")
	b := attach(t, n, 1, true)
	for _, l := range []Link{a, b} {
		g := newPlainGuest(t, l)
		if _, err := g.tcp(farWeb+":80", soon); err != nil {
			t.Error(err)
		}
		if _, err := g.tcp("10.0.0.5:80", never); err == nil {
			t.Error("private networks are open")
		}
	}
	shell(t, "nft flush ruleset")
	if err := n.Detach(0); err != nil {
		t.Errorf("Detach without tables: %v", err)
	}
}

// What gVisor does to the namespace when it starts, Readdress makes good.
func TestReaddress(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	for i := range 3 {
		s := startSandbox(t, l)
		addrs := func() string { return shell(t, "ip -n "+base(l.NetNS)+" -4 -o addr show dev eth0") }
		eventually(t, "gVisor took the address", func() bool { return addrs() == "" })
		s.end()
		if err := n.Readdress(0); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(addrs(), l.Guest.String()) {
			t.Fatalf("round %d: no address: %s", i, addrs())
		}
		if err := n.Readdress(0); err != nil {
			t.Errorf("a second time: %v", err)
		}
	}
	g := newGvisorGuest(t, l)
	if _, err := g.tcp(farWeb+":80", soon); err != nil {
		t.Error(err)
	}
	if _, err := g.tcp("10.0.0.5:80", never); err == nil {
		t.Error("private networks are open")
	}
	if err := n.Readdress(1); hutch.KindOf(err) != hutch.Internal {
		t.Errorf("a slot that has no namespace: %v", err)
	}
}

func TestRefreshFollowsTheHost(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "resolv.conf")
	was := resolvConf
	resolvConf = conf
	t.Cleanup(func() { resolvConf = was })
	write := func(server string) {
		if err := os.WriteFile(conf, []byte("nameserver "+server+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("127.0.0.53")
	n := open(t, func(c *Config) { c.Resolvers = nil })
	l := attach(t, n, 0, true)
	g := newPlainGuest(t, l)
	if _, err := g.udp(l.DNS[0].String()+":53", never); err == nil {
		t.Error("somebody answers although the host knows no resolver")
	}
	for _, server := range []string{farDNS, farDNS2, farDNS} {
		write(server)
		if err := n.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := g.udp(l.DNS[1].String()+":53", soon); err != nil {
			t.Errorf("%s: %v", server, err)
		}
		if dns := shell(t, "nft list map inet "+n.tableName()+" dns"); !strings.Contains(dns, server+" . 53") {
			t.Errorf("%s is not in the filter: %s", server, dns)
		}
	}
	// The uplink goes and comes back under another name.
	shell(t, "ip link set up0 down; ip link set up0 name up1; ip link set up1 up; ip route add default via "+uplinkFar)
	t.Cleanup(func() {
		shell(t, "ip link set up1 down; ip link set up1 name up0; ip link set up0 up; sysctl -qw net.ipv4.conf.up0.forwarding=0; ip route add default via "+uplinkFar)
	})
	shell(t, "sysctl -qw net.ipv4.conf.up1.forwarding=0; ip route del "+n.sub.String())
	if err := n.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.tcp(farWeb+":80", soon); err != nil {
		t.Error(err)
	}
	if !strings.Contains(shell(t, "ip route"), "unreachable "+n.sub.String()) {
		t.Error("the subnet's route is not back")
	}
}

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
	const slack = 4 // the Go runtime's own
	if k := entries(t, "/proc/self/fd"); k > files+slack {
		t.Errorf("%d files are open, before it were %d", k, files)
	}
	if k := entries(t, "/proc/self/task"); k > threads+slack {
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

// Purge leaves the host as it found it, with guests attached or not, and with
// other installations and other people's tables in place.
func TestPurge(t *testing.T) {
	needLab(t)
	shell(t, "nft add table inet mine; nft add chain inet mine c '{ type filter hook forward priority 0; policy accept; }'; nft add rule inet mine c counter")
	t.Cleanup(func() { shell(t, "nft delete table inet mine") })
	look := func() string {
		// Counters go on counting; the lab itself sends.
		return shell(t, `nft -s list ruleset; ip -o link | sed 's/^[0-9]*: //'; ip addr show dev up0 | grep inet; ip route show table all; ip rule; ls /run/netns
sysctl -a 2>/dev/null | grep -E '^net\.' | grep -vE 'nf_conntrack_count|random|netfilter.nf_log'; tc qdisc show`)
	}
	before := look()
	n := open(t)
	attach(t, n, 0, true)
	attach(t, n, 1, false)
	attach(t, n, 777, true)
	if during := look(); during == before {
		t.Fatal("the test does not see what there is")
	}
	if v, err := readSysctl("ipv4", "up0", "forwarding"); err != nil || v != "1" {
		t.Fatalf("forwarding of the uplink: %q, %v", v, err)
	}
	// A second installation, which needs the forwarding for longer.
	m := open(t)
	g := newPlainGuest(t, attach(t, m, 0, true))
	if m.sub == n.sub {
		t.Errorf("two installations have the subnet %v", m.sub)
	}
	if err := n.Purge(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.tcp(farWeb+":80", soon); err != nil {
		t.Errorf("purging one installation broke another: %v", err)
	}
	if err := m.Purge(); err != nil {
		t.Fatal(err)
	}
	if after := look(); after != before {
		t.Errorf("the host is not as it was:\n%s", difference(before, after))
	}
	if _, err := os.Stat(n.stateFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file: %v", err)
	}
	if _, err := n.Attach(t.Context(), 0, true); err == nil {
		t.Error("Attach works after Purge")
	}
	if err := n.Purge(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if after := look(); after != before {
		t.Errorf("the host is not as it was:\n%s", difference(before, after))
	}
}

// difference lists lines that only one of two texts has.
func difference(a, b string) string {
	var out []string
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range as {
		if !slices.Contains(bs, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range bs {
		if !slices.Contains(as, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

func TestSubnet(t *testing.T) {
	n := open(t)
	var kept remembered
	b, err := os.ReadFile(n.stateFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &kept); err != nil || kept.Subnet != n.sub {
		t.Fatalf("%s: %v", b, err)
	}
	was := n.sub
	if n = reopen(t, n); n.sub != was {
		t.Errorf("the subnet was %v and is %v", was, n.sub)
	}
	t.Run("taken by a route", func(t *testing.T) {
		shell(t, "ip route add 10.213.7.0/24 via "+uplinkFar+"; ip route add 10.214.0.0/15 via "+uplinkFar+" table 77; ip addr add 10.216.9.9/24 dev lo")
		t.Cleanup(func() {
			shell(t, "ip route del 10.213.7.0/24; ip route flush table 77; ip addr del 10.216.9.9/24 dev lo")
		})
		m := open(t)
		for _, p := range prefixes("10.213.0.0/16", "10.214.0.0/16", "10.215.0.0/16", "10.216.0.0/16") {
			if m.sub.Overlaps(p) {
				t.Errorf("picked %v", m.sub)
			}
		}
	})
	t.Run("given", func(t *testing.T) {
		m := open(t, func(c *Config) { c.Subnet = netip.MustParsePrefix("172.20.8.0/28") })
		if m.Capacity() != 4 {
			t.Errorf("capacity %d", m.Capacity())
		}
		if l := m.Plan(3); l.Gateway.String() != "172.20.8.13" || l.Guest.String() != "172.20.8.14" {
			t.Errorf("%+v", l)
		}
		_, err := Open(t.Context(), Config{Tag: "zzzz", Dir: t.TempDir(), Subnet: netip.MustParsePrefix("172.20.8.8/29")})
		if hutch.KindOf(err) != hutch.Conflict {
			t.Errorf("a part of it was given to another: %v", err)
		}
		_, err = Open(t.Context(), Config{Tag: "zzzz", Dir: t.TempDir(), Subnet: netip.MustParsePrefix("5.5.0.0/16")})
		if hutch.KindOf(err) != hutch.Conflict {
			t.Errorf("the uplink's network was given: %v", err)
		}
	})
	t.Run("smaller than before", func(t *testing.T) {
		m := open(t)
		attach(t, m, 900, true)
		m.cfg.Subnet = netip.MustParsePrefix("172.20.9.0/28")
		m = reopen(t, m)
		if found, err := m.Found(); err != nil || !slices.Equal(found, []int{900}) {
			t.Errorf("Found says %v, %v", found, err)
		}
		if err := m.Detach(900); err != nil {
			t.Error(err)
		}
		if found, err := m.Found(); err != nil || len(found) > 0 {
			t.Errorf("Found says %v, %v", found, err)
		}
		if routes := shell(t, "ip route"); strings.Count(routes, "unreachable") != 2 {
			t.Errorf("the former subnet's route is still there: %s", routes)
		}
	})
	t.Run("nobody else has a dead guest's address", func(t *testing.T) {
		m := open(t)
		l := attach(t, m, 0, true)
		if err := m.Detach(0); err != nil {
			t.Fatal(err)
		}
		mark := theLab.sniff.mark(t)
		if c, err := net.DialTimeout("tcp", l.Guest.String()+":7777", never); err == nil {
			c.Close()
			t.Error("somebody answers")
		}
		if pkts := theLab.sniff.since(t, mark); len(pkts) > 0 {
			t.Errorf("the host asked outside for a guest that is gone: %v", lines(pkts))
		}
	})
}

func BenchmarkAttach(b *testing.B)     { benchmark(b, "attach") }
func BenchmarkDetach(b *testing.B)     { benchmark(b, "detach") }
func BenchmarkDetachUsed(b *testing.B) { benchmark(b, "used") }

// benchmark times one half of a guest's life and reports percentiles. Between
// two guests it waits until the kernel is done with the last one.
func benchmark(b *testing.B, what string) {
	n := open(b)
	var took []time.Duration
	timed := func(is bool, f func()) {
		began := time.Now()
		f()
		if is {
			took = append(took, time.Since(began))
		}
	}
	for range b.N {
		timed(what == "attach", func() { attach(b, n, 0, true) })
		if what == "used" {
			l := n.Plan(0)
			if _, err := (&plainGuest{t: b, link: l}).udp(l.DNS[0].String()+":53", soon); err != nil {
				b.Fatal(err)
			}
		}
		timed(what != "attach", func() {
			if err := n.Detach(0); err != nil {
				b.Fatal(err)
			}
		})
		n.deferred.Wait()
	}
	slices.Sort(took)
	ms := func(q float64) float64 {
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
}
