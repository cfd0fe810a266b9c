package network

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

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
