package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Long enough for an answer in the lab, short enough to wait for none.
const (
	soon  = 2 * time.Second
	never = 250 * time.Millisecond
)

// kinds are the two ways a guest is built: a process with ordinary sockets in
// the namespace, and a gVisor sandbox that sends beneath the namespace's stack.
var kinds = []struct {
	name string
	make func(testing.TB, Link) guest
}{
	{"plain", func(t testing.TB, l Link) guest { return newPlainGuest(t, l) }},
	{"gvisor", func(t testing.TB, l Link) guest { return newGvisorGuest(t, l) }},
}

func eachKind(t *testing.T, internet bool, f func(*testing.T, *Net, Link, guest)) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			n := open(t)
			l := attach(t, n, 3, internet)
			f(t, n, l, k.make(t, l))
		})
	}
}

// A probe is one attempt to reach something.
type probe struct {
	how string // tcp, udp, ping
	to  string
}

func (p probe) try(g guest, wait time.Duration) (string, error) {
	switch p.how {
	case "tcp":
		return g.tcp(p.to, wait)
	case "udp":
		return g.udp(p.to, wait)
	}
	return g.ping(p.to, wait)
}

// all runs probes side by side and returns those that got an answer.
func all(g guest, wait time.Duration, ps []probe) (through []probe) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			if _, err := p.try(g, wait); err == nil {
				mu.Lock()
				defer mu.Unlock()
				through = append(through, p)
			}
		})
	}
	wg.Wait()
	return through
}

// deniedProbes are what no guest may reach, one way or another.
func deniedProbes(l Link) []probe {
	var ps []probe
	for _, a := range slices.Concat(farDenied, farUnbindable, []string{uplinkHost, "192.168.77.1"}) {
		for _, port := range []string{"80", "53", "9000", "7777"} {
			if port == "53" && slices.Contains(l.DNS, netip.MustParseAddr(a)) {
				continue // that is how names are resolved
			}
			ps = append(ps, probe{"tcp", a + ":" + port}, probe{"udp", a + ":" + port})
		}
		ps = append(ps, probe{"ping", a})
	}
	for _, a := range []netip.Addr{l.Gateway, l.Gateway.Prev(), l.Guest.Next()} {
		for _, port := range []int{22, 53, 80, 9000, 9001, 9002} {
			ps = append(ps, probe{"tcp", fmt.Sprint(a, ":", port)}, probe{"udp", fmt.Sprint(a, ":", port)})
		}
		ps = append(ps, probe{"ping", a.String()})
	}
	return ps
}

func openProbes() []probe {
	return []probe{
		{"tcp", farWeb + ":80"}, {"tcp", farWeb2 + ":8080"}, {"udp", farWeb + ":8080"}, {"ping", farWeb},
		{"udp", farWeb + ":53"}, {"tcp", farWeb2 + ":53"}, // the guest may ask other resolvers
	}
}

func TestInternet(t *testing.T) {
	eachKind(t, true, func(t *testing.T, n *Net, l Link, g guest) {
		for _, p := range openProbes() {
			said, err := p.try(g, soon)
			if err != nil {
				t.Errorf("%v: %v", p, err)
			}
			if p.how != "ping" && said != "far sees "+uplinkHost {
				t.Errorf("%v: answered %q, so the source was not rewritten", p, said)
			}
		}
	})
}

// What the outside says about a guest's packets reaches the guest.
func TestErrorsComeBack(t *testing.T) {
	n := open(t)
	g := newPlainGuest(t, attach(t, n, 0, true))
	if _, err := g.udp(farWeb+":9999", soon); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody is at that port, and the guest hears: %v", err)
	}
}

func TestDenied(t *testing.T) {
	eachKind(t, true, func(t *testing.T, n *Net, l Link, g guest) {
		ps := deniedProbes(l)
		mark := theLab.sniff.mark(t)
		if through := all(g, never, ps); len(through) > 0 {
			t.Errorf("%d of %d probes got an answer: %v", len(through), len(ps), lines(through))
		}
		if pkts := theLab.sniff.since(t, mark); len(pkts) > 0 {
			t.Errorf("%d packets left the host: %v", len(pkts), lines(pkts))
		}
		if _, err := g.tcp(farWeb+":80", soon); err != nil {
			t.Errorf("and the internet is not there either: %v", err)
		}
	})
}

// A program in a guest hears at once that it may not.
func TestDenialIsQuick(t *testing.T) {
	eachKind(t, true, func(t *testing.T, n *Net, l Link, g guest) {
		for _, to := range []string{"169.254.169.254:80", "10.0.0.5:80", farWeb + ":25"} {
			began := time.Now()
			if _, err := g.tcp(to, 5*time.Second); err == nil || strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: %v", to, err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s took %v", to, took)
			}
		}
	})
}

func TestNoInternet(t *testing.T) {
	eachKind(t, false, func(t *testing.T, n *Net, l Link, g guest) {
		if l.DNS != nil {
			t.Errorf("a guest without internet was told of name servers %v", l.DNS)
		}
		ps := append(deniedProbes(l), openProbes()...)
		for _, a := range dnsAddrs {
			ps = append(ps, probe{"udp", a.String() + ":53"}, probe{"tcp", a.String() + ":53"})
		}
		mark := theLab.sniff.mark(t)
		if through := all(g, never, ps); len(through) > 0 {
			t.Errorf("%d of %d probes got an answer: %v", len(through), len(ps), lines(through))
		}
		if pkts := theLab.sniff.since(t, mark); len(pkts) > 0 {
			t.Errorf("%d packets left the host: %v", len(pkts), lines(pkts))
		}
	})
}

// The host reaches the guest, which is how everything else reaches it.
func TestHostToGuest(t *testing.T) {
	for _, internet := range []bool{true, false} {
		n := open(t)
		l := attach(t, n, 0, internet)
		newPlainGuest(t, l).listen("7777")
		c, err := net.DialTimeout("tcp", l.Guest.String()+":7777", soon)
		if err != nil {
			t.Fatalf("internet=%v: %v", internet, err)
		}
		defer c.Close()
		if here := c.LocalAddr().(*net.TCPAddr).IP.String(); here != l.Gateway.String() {
			t.Errorf("the host called from %v, want the gateway %v", here, l.Gateway)
		}
	}
}

func TestHostUnreachable(t *testing.T) {
	eachKind(t, true, func(t *testing.T, n *Net, l Link, g guest) {
		var ps []probe
		for _, a := range []string{l.Gateway.String(), uplinkHost, "192.168.77.1"} {
			for _, port := range []string{"9000", "9001", "9002"} {
				ps = append(ps, probe{"tcp", a + ":" + port}, probe{"udp", a + ":" + port})
			}
		}
		for _, a := range hostIPv6(t) {
			ps = append(ps, probe{"tcp", "[" + a + "]:9001"}, probe{"udp", "[" + a + "]:9001"})
		}
		if through := all(g, never, ps); len(through) > 0 {
			t.Errorf("%d of %d services of the host answered: %v", len(through), len(ps), lines(through))
		}
	})
}

// hostIPv6 lists the host's IPv6 addresses as a guest would have to name them.
func hostIPv6(t testing.TB) []string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; ip.To4() == nil && !ip.IsLoopback() {
			s := ip.String()
			if ip.IsLinkLocalUnicast() {
				s += "%" + guestIf
			}
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		t.Fatal("the lab's host has no IPv6 address, so the test would show nothing")
	}
	return out
}

func TestNoIPv6(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	if out := shell(t, "ip -6 -o addr show dev "+l.HostIf+"; ip -n "+base(l.NetNS)+" -6 -o addr show"); out != "" {
		t.Errorf("there are IPv6 addresses: %s", out)
	}
	// Even if both ends turn IPv6 on: the program on the link drops it.
	shell(t, "sysctl -qw net.ipv6.conf."+l.HostIf+".disable_ipv6=0 && ip netns exec "+base(l.NetNS)+
		" sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0")
	shell(t, "ip -n "+base(l.NetNS)+" addr add fe80::77/64 dev eth0 nodad; ip addr add fe80::78/64 dev "+l.HostIf+" nodad")
	g := newPlainGuest(t, l)
	if said, err := g.tcp("[fe80::78%"+guestIf+"]:9001", never); err == nil {
		t.Errorf("the host answered over IPv6: %q", said)
	}
}

func TestPeers(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			n := open(t)
			a, b := attach(t, n, 0, true), attach(t, n, 1, true)
			newPlainGuest(t, b).listen("7777")
			if c, err := net.DialTimeout("tcp", b.Guest.String()+":7777", soon); err != nil {
				t.Fatalf("the host cannot reach the other guest: %v", err)
			} else {
				c.Close()
			}
			g := k.make(t, a)
			ps := []probe{{"tcp", b.Guest.String() + ":7777"}, {"udp", b.Guest.String() + ":7777"}, {"ping", b.Guest.String()},
				{"tcp", b.Gateway.String() + ":9000"}, {"udp", b.Gateway.String() + ":9000"}, {"ping", b.Gateway.String()}}
			sn := sniffOn(t, b.NetNS, guestIf)
			if through := all(g, never, ps); len(through) > 0 {
				t.Errorf("the other guest answered: %v", lines(through))
			}
			if got := sn.from(a.Guest); len(got) > 0 {
				t.Errorf("packets reached the other guest: %v", lines(got))
			}
		})
	}
}

// Even an allow-list as wide as can be opens neither the host nor other guests.
func TestAllow(t *testing.T) {
	n := open(t, func(c *Config) { c.Allow = prefixes("192.168.1.0/24", "203.0.113.80/32", "192.168.0.0/23") })
	l := attach(t, n, 0, true)
	g := newPlainGuest(t, l)
	for _, to := range []string{"192.168.1.5:80", "203.0.113.80:8080", "192.168.1.5:25"} {
		if said, err := g.tcp(to, soon); err != nil || said != "far sees "+uplinkHost {
			t.Errorf("%s: %q, %v", to, said, err)
		}
	}
	if _, err := g.tcp("10.0.0.5:80", never); err == nil {
		t.Error("what is not in the list is open too")
	}

	n = open(t, func(c *Config) { c.Allow = prefixes("0.0.0.0/0") })
	a, b := attach(t, n, 0, true), attach(t, n, 1, true)
	newPlainGuest(t, b).listen("7777")
	g = newPlainGuest(t, a)
	through := all(g, never, []probe{
		{"tcp", b.Guest.String() + ":7777"}, {"tcp", a.Gateway.String() + ":9000"}, {"tcp", b.Gateway.String() + ":9000"},
		{"tcp", uplinkHost + ":9000"}, {"udp", uplinkHost + ":9000"}, {"tcp", "192.168.77.1:9000"},
	})
	if len(through) > 0 {
		t.Errorf("allowing everything opened the host or a guest: %v", lines(through))
	}
	if _, err := g.tcp("10.0.0.5:80", soon); err != nil {
		t.Errorf("allowing everything did not open a private network: %v", err)
	}
}

func TestMail(t *testing.T) {
	n := open(t)
	g := newPlainGuest(t, attach(t, n, 0, true))
	if _, err := g.tcp(farWeb+":25", never); err == nil {
		t.Error("a guest can send mail")
	}
}

func TestNames(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			n := open(t, func(c *Config) {
				c.Resolvers = []netip.AddrPort{netip.MustParseAddrPort(farDNS + ":53"), netip.MustParseAddrPort(farDNS2 + ":8080")}
			})
			l := attach(t, n, 0, true)
			g := k.make(t, l)
			if len(l.DNS) != 2 {
				t.Fatalf("name servers %v, want two", l.DNS)
			}
			for _, a := range l.DNS {
				for _, how := range []string{"udp", "tcp"} {
					p := probe{how, a.String() + ":53"}
					if said, err := p.try(g, soon); err != nil || said != "far sees "+uplinkHost {
						t.Errorf("%v: %q, %v", p, said, err)
					}
				}
			}
			ps := []probe{
				// The upstream itself, on the port of names and others.
				{"udp", farDNS + ":53"}, {"tcp", farDNS + ":53"}, {"tcp", farDNS + ":80"}, {"udp", farDNS + ":8080"}, {"ping", farDNS},
				{"udp", farDNS2 + ":53"}, {"tcp", farDNS2 + ":8080"}, {"udp", farDNS2 + ":8080"},
			}
			for _, a := range l.DNS {
				ps = append(ps, probe{"tcp", a.String() + ":80"}, probe{"udp", a.String() + ":8080"}, probe{"ping", a.String()})
			}
			if through := all(g, never, ps); len(through) > 0 {
				t.Errorf("more than names: %v", lines(through))
			}
			// Names do not depend on this process.
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := g.udp(l.DNS[0].String()+":53", soon); err != nil {
				t.Errorf("after Close: %v", err)
			}
			reopen(t, n)
		})
	}
}

// The operator's resolver may be on this host, at an address of the host's.
func TestNamesOfTheHost(t *testing.T) {
	n := open(t, func(c *Config) { c.Resolvers = []netip.AddrPort{netip.MustParseAddrPort(uplinkHost + ":9000")} })
	l := attach(t, n, 0, true)
	g := newPlainGuest(t, l)
	for _, how := range []string{"udp", "tcp"} {
		p := probe{how, l.DNS[0].String() + ":53"}
		if said, err := p.try(g, soon); err != nil || said != "host sees "+l.Guest.String() {
			t.Errorf("%v: %q, %v", p, said, err)
		}
	}
	if through := all(g, never, []probe{{"udp", uplinkHost + ":9000"}, {"tcp", uplinkHost + ":9000"}, {"tcp", uplinkHost + ":9001"}}); len(through) > 0 {
		t.Errorf("the host answered to more: %v", lines(through))
	}
}

func TestSpoofing(t *testing.T) {
	n := open(t)
	a, b := attach(t, n, 0, true), attach(t, n, 1, true)
	raw := rawSocket(t, a)
	mark := theLab.sniff.mark(t)
	sn := sniffOn(t, b.NetNS, guestIf)
	for _, src := range []string{b.Guest.String(), uplinkHost, uplinkFar, farWeb2, "10.0.0.9", "127.0.0.1", "255.255.255.255", "0.0.0.0", a.Gateway.String(), a.Guest.Next().String()} {
		for _, dst := range []string{farWeb, b.Guest.String(), uplinkHost, l0(a)} {
			raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket(src, dst, 17, udpTo(8080)))
			raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket(src, dst, 6, tcpTo(80)))
		}
	}
	if pkts := theLab.sniff.since(t, mark); len(pkts) > 0 {
		t.Errorf("%d packets with foreign sources left: %v", len(pkts), lines(pkts))
	}
	if got := sn.from(netip.Addr{}); len(got) > 0 {
		t.Errorf("packets with foreign sources reached another guest: %v", lines(got))
	}
	// The same packet with the right source leaves: it was the source.
	mark = theLab.sniff.mark(t)
	raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket(a.Guest.String(), farWeb, 17, udpTo(8080)))
	if pkts := theLab.sniff.since(t, mark); len(pkts) != 1 {
		t.Errorf("the guest's own source: %d packets left, want 1: %v", len(pkts), lines(pkts))
	}
	// With options, it does not.
	mark = theLab.sniff.mark(t)
	raw.send(t, a.hostMAC(), unix.ETH_P_IP, withOption(ipPacket(a.Guest.String(), farWeb, 17, udpTo(8080))))
	if pkts := theLab.sniff.since(t, mark); len(pkts) != 0 {
		t.Errorf("IP options left: %v", lines(pkts))
	}
	// Destinations that a guest's own stack would not send over the link.
	ear, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 9100})
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()
	for _, dst := range []string{"127.0.0.1", "127.1.2.3", "0.0.0.0", "255.255.255.255", "224.0.0.1", "192.168.77.1", uplinkHost, a.Gateway.String(), a.Guest.Next().String()} {
		raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket(a.Guest.String(), dst, 17, udpTo(9100)))
		raw.send(t, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, unix.ETH_P_IP, ipPacket(a.Guest.String(), dst, 17, udpTo(9100)))
	}
	if first := firstWords(t, ear); first != "from the host" {
		t.Errorf("the host's service heard %q from the guest", first)
	}
	shell(t, "nft flush chain inet "+n.tableName()+" input")
	raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket(a.Guest.String(), a.Gateway.String(), 17, udpTo(9100)))
	if first := firstWords(t, ear); first == "from the host" {
		t.Error("without the filter the host's service does not hear the guest either")
	}
	if err := n.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What belongs to no connection would not have its source rewritten.
	mark = theLab.sniff.mark(t)
	for _, flags := range []byte{0x03, 0x07, 0x3f, 0x00} {
		segment := tcpTo(80)
		segment[13] = flags
		raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket(a.Guest.String(), farWeb, 6, segment))
	}
	if pkts := theLab.sniff.since(t, mark); len(pkts) != 0 {
		t.Errorf("senseless segments left: %v", lines(pkts))
	}
	// Protocols without ports, which NAT would have to guess about.
	for _, proto := range []byte{2, 4, 41, 47, 50, 103, 132} {
		raw.send(t, a.hostMAC(), unix.ETH_P_IP, ipPacket(a.Guest.String(), farWeb, proto, make([]byte, 24)))
	}
	if pkts := theLab.sniff.since(t, mark); len(pkts) != 0 {
		t.Errorf("other protocols left: %v", lines(pkts))
	}
}

// firstWords sends something from the host itself and returns what is heard first.
func firstWords(t testing.TB, ear *net.UDPConn) string {
	t.Helper()
	c, err := net.Dial("udp4", "127.0.0.1:9100")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("from the host")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	ear.SetReadDeadline(time.Now().Add(soon))
	k, err := ear.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:k])
}

// l0 is an address of the host on loopback.
func l0(Link) string { return "192.168.77.1" }

func TestEthertypes(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	raw := rawSocket(t, l)
	// A daemon of the host that speaks a protocol of its own on every interface
	// gets its frames after the program on the link has looked at them.
	kinds := []uint16{0x88b5, 0x88cc, 0x888e, 0x8863, 0x8847, 0x8100, 0x88a8, unix.ETH_P_IPV6, 0x0004}
	for _, kind := range append(kinds, unix.ETH_P_ARP) {
		ears := listenFrames(t, l, kind)
		raw.send(t, l.hostMAC(), kind, make([]byte, 60))
		raw.send(t, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, kind, make([]byte, 60))
		// What follows on the same link has been seen when this has.
		got := ears.until(t, func() { raw.send(t, l.hostMAC(), unix.ETH_P_ARP, arpPacket(1, l.guestMAC(), l.Guest, l.Gateway)) })
		if want := kind == unix.ETH_P_ARP; (got > 0) != want {
			t.Errorf("ethertype %#04x: the host's daemon got %d frames", kind, got)
		}
	}
	// A VLAN tag does not hide IPv4.
	mark := theLab.sniff.mark(t)
	raw.send(t, l.hostMAC(), 0x8100, append([]byte{0, 0, 8, 0}, ipPacket(l.Guest.String(), farWeb, 17, udpTo(8080))...))
	if pkts := theLab.sniff.since(t, mark); len(pkts) != 0 {
		t.Errorf("a tagged packet left: %v", lines(pkts))
	}
}

func TestARP(t *testing.T) {
	n := open(t)
	a, b := attach(t, n, 0, true), attach(t, n, 1, true)
	raw := rawSocket(t, a)
	sn := sniffOn(t, a.NetNS, guestIf)
	ask := func(src, dst netip.Addr) {
		raw.send(t, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, unix.ETH_P_ARP, arpPacket(1, a.guestMAC(), src, dst))
	}
	before := shell(t, "ip -4 neigh show")
	for _, dst := range []netip.Addr{b.Gateway, b.Guest, netip.MustParseAddr(uplinkHost), netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr(farWeb)} {
		ask(a.Guest, dst)
	}
	// Lies about who is where, and a flood of them.
	for _, src := range []netip.Addr{a.Gateway, b.Guest, netip.MustParseAddr(uplinkFar)} {
		ask(src, a.Gateway)
		raw.send(t, a.hostMAC(), unix.ETH_P_ARP, arpPacket(2, a.guestMAC(), src, a.Gateway))
	}
	for i := range 3000 {
		ask(ipFrom(0x0b000000+uint32(i)), a.Gateway)
	}
	ask(a.Guest, a.Gateway)
	eventually(t, "the gateway answers ARP for its own address", func() bool { return len(sn.arpReplies()) > 0 })
	for _, who := range sn.arpReplies() {
		if who != a.Gateway {
			t.Errorf("the host answered ARP for %v", who)
		}
	}
	if after := shell(t, "ip -4 neigh show"); after != before {
		t.Errorf("a guest changed the host's neighbours:\nbefore:\n%safter:\n%s", before, after)
	}
}

// Nobody but the host gets to a guest, nor through the host to elsewhere.
func TestInbound(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	newPlainGuest(t, l).listen("7777")
	sn := sniffOn(t, l.NetNS, guestIf)
	shell(t, "ip -n far route add "+n.sub.String()+" via "+uplinkHost)
	t.Cleanup(func() { shell(t, "ip -n far route del "+n.sub.String()) })
	far := &plainGuest{t: t, link: Link{NetNS: theLab.far}}
	through := all(far, never, []probe{
		{"tcp", l.Guest.String() + ":7777"}, {"udp", l.Guest.String() + ":7777"}, {"ping", l.Guest.String()},
		{"tcp", l.Gateway.String() + ":9000"}, {"ping", l.Gateway.String()},
	})
	if len(through) > 0 {
		t.Errorf("the outside got an answer: %v", lines(through))
	}
	if got := sn.from(netip.Addr{}); len(got) > 0 {
		t.Errorf("packets from outside reached the guest: %v", lines(got))
	}
	// Nor may anybody outside pass for a guest.
	ear, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 9100})
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()
	raw := rawSocketOn(t, theLab.far, "far0")
	up, err := net.InterfaceByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	raw.send(t, up.HardwareAddr, unix.ETH_P_IP, ipPacket(l.Guest.String(), uplinkHost, 17, udpTo(9100)))
	if first := firstWords(t, ear); first != "from the host" {
		t.Errorf("the host's service heard %q from somebody who pretends to be a guest", first)
	}
	raw.send(t, up.HardwareAddr, unix.ETH_P_IP, ipPacket(uplinkFar, uplinkHost, 17, udpTo(9100)))
	if first := firstWords(t, ear); first == "from the host" {
		t.Error("and does not hear who does not pretend either")
	}
}

// Turning forwarding on for an uplink does not make the host a router.
func TestHostIsNoRouter(t *testing.T) {
	needLab(t)
	shell(t, `ip netns add lan; ip link add lan0 type veth peer name eth0 netns lan; ip addr add 6.6.6.1/24 dev lan0; ip link set lan0 up
ip -n lan addr add 6.6.6.2/24 dev eth0; ip -n lan link set eth0 up; ip -n lan route add default via 6.6.6.1; ip -n far route add 6.6.6.0/24 via `+uplinkHost)
	t.Cleanup(func() {
		shell(t, "ip -n far route del 6.6.6.0/24; ip netns del lan; ip link del lan0 2>/dev/null || true")
	})
	l := &lab{}
	t.Cleanup(l.close)
	if err := inNS(runNetns+"/lan", func() error { return l.serveTCP("0.0.0.0:80", "lan") }); err != nil {
		t.Fatal(err)
	}
	far := &plainGuest{t: t, link: Link{NetNS: theLab.far}}
	lan := &plainGuest{t: t, link: Link{NetNS: runNetns + "/lan"}}
	sn := sniffOn(t, runNetns+"/lan", "eth0")
	try := func() (bool, bool) {
		_, in := far.tcp("6.6.6.2:80", never)
		_, out := lan.tcp(uplinkFar+":80", never)
		return in == nil, out == nil
	}
	n := open(t)
	g := newPlainGuest(t, attach(t, n, 0, true))
	if in, out := try(); in || out {
		t.Errorf("the host routes for others: in %v, out %v", in, out)
	}
	if got := sn.from(netip.MustParseAddr(uplinkFar)); len(got) > 0 {
		t.Errorf("the host routed at least one way: %v", lines(got))
	}
	// If the operator makes it one, we are not in the way.
	shell(t, "sysctl -qw net.ipv4.ip_forward=1")
	t.Cleanup(func() { shell(t, "sysctl -qw net.ipv4.ip_forward=0") })
	if err := n.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in, out := try(); !in || !out {
		t.Errorf("the host was made a router and does not route: in %v, out %v", in, out)
	}
	if _, err := g.tcp(farWeb+":80", soon); err != nil {
		t.Errorf("and the guest lost its internet: %v", err)
	}
}

func TestTooManyFlows(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	raw := rawSocket(t, l)
	mark := theLab.sniff.mark(t)
	const sent = maxFlows + 2000
	for i := range sent {
		u := udpTo(uint16(1024 + i))
		raw.send(t, l.hostMAC(), unix.ETH_P_IP, ipPacket(l.Guest.String(), "9.9.9.9", 17, u))
	}
	pkts := theLab.sniff.since(t, mark)
	if len(pkts) > maxFlows || len(pkts) < maxFlows*9/10 {
		t.Errorf("%d of %d connections were let out, want %d", len(pkts), sent, maxFlows)
	}
	if err := n.Detach(0); err != nil {
		t.Fatal(err)
	}
	g := newPlainGuest(t, attach(t, n, 0, true))
	if _, err := g.tcp(farWeb+":80", soon); err != nil {
		t.Errorf("the next guest in the slot pays for it: %v", err)
	}
}

// Without the filter's chains, what the tests above expect to fail works. So it
// is the filter that they test.
func TestTheTests(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			n := open(t)
			a, b := attach(t, n, 0, true), attach(t, n, 1, false)
			newPlainGuest(t, b).listen("7777")
			g := k.make(t, a)
			closed := []probe{
				{"tcp", "10.0.0.5:80"}, {"tcp", "169.254.169.254:80"}, {"udp", "192.168.1.5:8080"}, {"tcp", farDNS + ":80"},
				{"tcp", a.Gateway.String() + ":9000"}, {"tcp", uplinkHost + ":9000"}, {"udp", "192.168.77.1:9000"}, {"ping", a.Gateway.String()},
				{"tcp", farWeb + ":25"},
			}
			if through := all(g, never, closed); len(through) > 0 {
				t.Fatalf("with the filter: %v", lines(through))
			}
			for _, c := range []string{"forward", "input"} {
				shell(t, "nft flush chain inet "+n.tableName()+" "+c)
			}
			if through := all(g, soon, closed); len(through) != len(closed) {
				t.Errorf("without the filter only these got through: %v", lines(through))
			}
			if ok, _, err := n.intact(); err != nil || ok {
				t.Errorf("the damage is not seen: %v, %v", ok, err)
			}
			if err := n.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if through := all(g, never, closed); len(through) > 0 {
				t.Errorf("after Refresh: %v", lines(through))
			}
		})
	}
}
