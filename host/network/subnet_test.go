package network

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch"
)

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
