package network

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Whole segments, checksums and sizes survive the way through link, filter and
// rewriting, in both directions and with gVisor's offloads.
func TestBulk(t *testing.T) {
	n := open(t)
	l := attach(t, n, 0, true)
	g := newGvisorGuest(t, l)
	data := make([]byte, 24<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	var ln net.Listener
	err := inNS(theLab.far, func() (err error) {
		ln, err = net.Listen("tcp", "0.0.0.0:8090")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Write(data)
			c.Close()
		}
	})
	defer serving.Wait()
	defer ln.Close()
	began := time.Now()
	got, err := g.ask("fetch %s:8090", farWeb)
	if want := fmt.Sprintf("%d %x", len(data), sha256.Sum256(data)); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	t.Logf("%d MiB in %v", len(data)>>20, time.Since(began))
}

// An uplink that forwards for our sake keeps forwarding what it did before:
// IPv6 is not ours to stop.
func TestForeignIPv6(t *testing.T) {
	needLab(t)
	shell(t, `sysctl -qw net.ipv6.conf.all.forwarding=1
ip netns add six; ip link add six0 type veth peer name eth0 netns six
ip addr add fd66::1/64 dev six0 nodad; ip link set six0 up; ip -n six addr add fd66::2/64 dev eth0 nodad; ip -n six link set eth0 up; ip -n six -6 route add default via fd66::1
ip addr add fd55::2/64 dev up0 nodad; ip -n far addr add fd55::1/64 dev far0 nodad; ip -n far -6 route add fd66::/64 via fd55::2`)
	t.Cleanup(func() {
		shell(t, `sysctl -qw net.ipv6.conf.all.forwarding=0; ip netns del six; ip link del six0 2>/dev/null
ip -n far -6 route del fd66::/64; ip addr del fd55::2/64 dev up0; ip -n far addr del fd55::1/64 dev far0`)
	})
	lan := &lab{}
	t.Cleanup(lan.close)
	if err := inNS(runNetns+"/six", func() error { return lan.serveTCP("[::]:80", "six") }); err != nil {
		t.Fatal(err)
	}
	far := &plainGuest{t: t, link: Link{NetNS: theLab.far}}
	reach := func() error {
		_, err := far.tcp("[fd66::2]:80", never)
		return err
	}
	eventually(t, "the host routes IPv6", func() bool { return reach() == nil })
	n := open(t)
	attach(t, n, 0, true)
	if err := reach(); err != nil {
		t.Errorf("the host does not route IPv6 any more: %v", err)
	}
}

// Another firewall's drop stands, and the operator is told once.
func TestForeignDrop(t *testing.T) {
	needLab(t)
	shell(t, "nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'")
	t.Cleanup(func() { shell(t, "nft delete table ip filter") })
	var said bytes.Buffer
	n := open(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&said, nil)) })
	g := newPlainGuest(t, attach(t, n, 0, true))
	if _, err := g.tcp(farWeb+":80", never); err == nil {
		t.Error("the other firewall's drop does not stand")
	}
	if err := n.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Count(said.String(), "another firewall drops") != 1 {
		t.Errorf("the log says: %s", said.String())
	}
	// What the package comment tells the operator to do, as nft has it.
	for _, dir := range []string{"iifname", "oifname"} {
		shell(t, fmt.Sprintf("nft add rule ip filter FORWARD %s '\"%s*\"' accept", dir, n.linkPrefix()))
	}
	if _, err := g.tcp(farWeb+":80", soon); err != nil {
		t.Errorf("the operator accepted it: %v", err)
	}
}
