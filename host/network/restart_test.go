package network

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"golang.org/x/sys/unix"
)

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
	// The kernel may take a second to use a link that came up, and TCP another.
	if _, err := g.tcp(farWeb+":80", 10*time.Second); err != nil {
		t.Error(err)
	}
	if !strings.Contains(shell(t, "ip route"), "unreachable "+n.sub.String()) {
		t.Error("the subnet's route is not back")
	}
}
