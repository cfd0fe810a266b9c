package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch"
)

// paper is a network that is only calculated with.
func paper(sub string) *Net {
	p := netip.MustParsePrefix(sub)
	return &Net{cfg: Config{Tag: "ab12"}, sub: p, cap: capacity(p), dir: runNetns,
		slots: map[int]hutch.SandboxID{}, of: map[hutch.SandboxID]int{}}
}

func TestPlan(t *testing.T) {
	n := paper("10.213.0.0/16")
	if n.Capacity() != 16384 {
		t.Errorf("capacity %d", n.Capacity())
	}
	for _, c := range []struct {
		slot                 int
		ns, link, gw, inside string
	}{
		{0, "/run/netns/hutch-ab12-0", "hxab12-0", "10.213.0.1", "10.213.0.2"},
		{1, "/run/netns/hutch-ab12-1", "hxab12-1", "10.213.0.5", "10.213.0.6"},
		{64, "/run/netns/hutch-ab12-64", "hxab12-64", "10.213.1.1", "10.213.1.2"},
		{16383, "/run/netns/hutch-ab12-16383", "hxab12-16383", "10.213.255.253", "10.213.255.254"},
	} {
		l := n.Plan(c.slot)
		if l.Slot != c.slot || l.NetNS != c.ns || l.HostIf != c.link || l.Gateway.String() != c.gw || l.Guest.String() != c.inside {
			t.Errorf("slot %d: %+v", c.slot, l)
		}
		if len(l.HostIf) > 15 {
			t.Errorf("%s is too long for an interface", l.HostIf)
		}
		if s, ok := n.slotAt(l.Guest); !ok || s != c.slot {
			t.Errorf("%v is of slot %d, %v", l.Guest, s, ok)
		}
		if s, ok := slotOf(l.HostIf, n.linkPrefix()); !ok || s != c.slot {
			t.Errorf("%v is of slot %d, %v", l.HostIf, s, ok)
		}
	}
	for _, name := range []string{"", "hxab12-", "hxab12-01", "hxab12-+1", "hxab12--1", "hxab12-1x", "hxab13-1", "hxab12-99999999999999999999", "eth0"} {
		if s, ok := slotOf(name, n.linkPrefix()); ok {
			t.Errorf("%q is slot %d", name, s)
		}
	}
}

func TestSlots(t *testing.T) {
	n := paper("10.213.0.0/28")
	ids := []hutch.SandboxID{"a", "b", "c", "d", "e"}
	for i, id := range ids[:4] {
		if s, err := n.Reserve(id); err != nil || s != i {
			t.Fatalf("%s: %d, %v", id, s, err)
		}
	}
	if s, err := n.Reserve("b"); err != nil || s != 1 {
		t.Errorf("again: %d, %v", s, err)
	}
	if _, err := n.Reserve("e"); hutch.KindOf(err) != hutch.Unavailable {
		t.Errorf("full: %v", err)
	}
	n.Free(2)
	n.Free(1)
	n.Free(1)
	if s, err := n.Reserve("e"); err != nil || s != 1 {
		t.Errorf("lowest free: %d, %v", s, err)
	}
	for _, c := range []struct {
		id   hutch.SandboxID
		slot int
		want hutch.Kind
		ok   bool
	}{
		{"e", 1, 0, true}, {"f", 1, hutch.Conflict, false}, {"e", 2, hutch.Conflict, false},
		{"f", 4, hutch.Invalid, false}, {"f", -1, hutch.Invalid, false}, {"f", 2, 0, true},
	} {
		if err := n.Adopt(c.id, c.slot); (err == nil) != c.ok || err != nil && hutch.KindOf(err) != c.want {
			t.Errorf("adopt %s in %d: %v", c.id, c.slot, err)
		}
	}
	n = paper("10.213.0.0/28")
	if err := n.Adopt("x", 0); err != nil {
		t.Fatal(err)
	}
	if s, err := n.Reserve("y"); err != nil || s != 1 {
		t.Errorf("after Adopt: %d, %v", s, err)
	}
}

func TestSpans(t *testing.T) {
	text := func(ps []netip.Prefix) string {
		var out []string
		for _, s := range spans(ps) {
			out = append(out, ipFrom(s.first).String()+"-"+ipFrom(s.last).String())
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, ""},
		{[]string{"0.0.0.0/0"}, "0.0.0.0-255.255.255.255"},
		{[]string{"10.0.0.0/8", "10.213.0.0/16", "10.0.0.0/8"}, "10.0.0.0-10.255.255.255"},
		{[]string{"11.0.0.0/8", "10.0.0.0/8"}, "10.0.0.0-11.255.255.255"},
		{[]string{"240.0.0.0/4", "255.255.255.255/32", "224.0.0.0/4"}, "224.0.0.0-255.255.255.255"},
		{[]string{"1.2.3.4/32", "1.2.3.6/32"}, "1.2.3.4-1.2.3.4 1.2.3.6-1.2.3.6"},
	} {
		if got := text(prefixes(c.in...)); got != c.want {
			t.Errorf("%v: %s, want %s", c.in, got, c.want)
		}
	}
	for _, p := range prefixes("10.0.0.0/8", "0.0.0.0/0", "255.255.255.255/32", "172.20.8.0/28", "128.0.0.0/1") {
		if got := prefixesIn(intervals([]netip.Prefix{p})); !slices.Equal(got, []netip.Prefix{p}) {
			t.Errorf("%v came back as %v", p, got)
		}
	}
}

func TestResolvers(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return f
	}
	stub := write("stub", "# local cache\nnameserver 127.0.0.53\noptions edns0\n")
	actual := write("real", "nameserver 192.168.1.1\nnameserver fe80::1%eth0\n")
	plain := write("plain", "search example.org\n nameserver 10.0.0.1 \nnameserver 2001:db8::1\nnameserver 0.0.0.0\nnameserver ::1\nnameserver x\nnameserver\nnameserver 1.1.1.1 # two\n")
	none := filepath.Join(dir, "none")
	was, behind := resolvConf, behindIt
	defer func() { resolvConf, behindIt = was, behind }()
	for _, c := range []struct {
		conf   string
		behind []string
		want   []string
	}{
		{plain, nil, []string{"10.0.0.1:53", "1.1.1.1:53"}},
		{stub, []string{none, actual}, []string{"192.168.1.1:53"}},
		{stub, []string{none}, nil},
		{none, nil, nil},
	} {
		resolvConf, behindIt = c.conf, c.behind
		var got []string
		for _, a := range hostResolvers() {
			got = append(got, a.String())
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", filepath.Base(c.conf), got, c.want)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{Tag: "a1b2", Dir: "x"}
	for name, c := range map[string]struct {
		change func(*Config)
		ok     bool
	}{
		"good":              {func(*Config) {}, true},
		"short tag":         {func(c *Config) { c.Tag = "abc" }, false},
		"upper-case tag":    {func(c *Config) { c.Tag = "ABCD" }, false},
		"tag with a slash":  {func(c *Config) { c.Tag = "a/b." }, false},
		"no directory":      {func(c *Config) { c.Dir = "" }, false},
		"subnet":            {func(c *Config) { c.Subnet = netip.MustParsePrefix("10.1.0.0/16") }, true},
		"subnet with host":  {func(c *Config) { c.Subnet = netip.MustParsePrefix("10.1.0.1/16") }, false},
		"subnet too small":  {func(c *Config) { c.Subnet = netip.MustParsePrefix("10.1.0.0/31") }, false},
		"IPv6 subnet":       {func(c *Config) { c.Subnet = netip.MustParsePrefix("fd00::/64") }, false},
		"IPv6 allowed":      {func(c *Config) { c.Allow = prefixes("fd00::/8") }, false},
		"loopback resolver": {func(c *Config) { c.Resolvers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53")} }, false},
		"resolver":          {func(c *Config) { c.Resolvers = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:5353")} }, true},
	} {
		cfg := good
		c.change(&cfg)
		if err := cfg.check(); (err == nil) != c.ok || err != nil && hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
