package network

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// On the machine itself, not in the lab: names through the host's own resolver,
// one address of the outside, and nothing of ours afterwards. What a machine's
// resolver and mirrors are decides whether an allow-list is needed.
func TestOnTheMachine(t *testing.T) {
	if os.Getenv(onMachine) == "" {
		needLab(t)
		var out []byte
		err := onThread(func() (err error) {
			home, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()))
			if err != nil {
				return err
			}
			defer home.Close()
			if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
			cmd.Env = append(os.Environ(), onMachine+"=1")
			out, err = cmd.CombinedOutput()
			return err
		})
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}

	const site = "proxy.golang.org"
	there, err := net.DefaultResolver.LookupNetIP(within(t, soon), "ip4", site)
	if err != nil {
		t.Skipf("this machine cannot resolve %s itself: %v", site, err)
	}
	web := netip.AddrPortFrom(there[0].Unmap(), 443)
	if c, err := net.DialTimeout("tcp", web.String(), soon); err != nil {
		t.Skipf("this machine cannot reach %v itself: %v", web, err)
	} else {
		c.Close()
	}
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port

	for _, allowed := range []bool{true, false} {
		cfg := Config{Tag: fmt.Sprintf("%04d", rand.IntN(10000)), Dir: t.TempDir()}
		if allowed {
			cfg.Allow = []netip.Prefix{netip.PrefixFrom(web.Addr(), 32)}
		}
		n, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if err := n.Purge(); err != nil {
					t.Errorf("purge: %v", err)
				}
				if err := n.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				if rest := shell(t, "nft list ruleset; ip link; ls /run/netns"); strings.Contains(rest, cfg.Tag+"-") || strings.Contains(rest, tablePrefix+cfg.Tag) {
					t.Errorf("left on the machine: %s", rest)
				}
			}()
			l := attach(t, n, 0, true)
			g := newPlainGuest(t, l)
			got, err := resolveIn(l, site)
			if err != nil || got != web.Addr() {
				t.Errorf("%s is %v in the guest (%v), %v on the machine", site, got, err, web.Addr())
			}
			_, err = g.tcp(web.String(), soon)
			if want := allowed || !inDenied(web.Addr()); (err == nil) != want {
				t.Errorf("allowed %v: %v: %v", allowed, web, err)
			}
			for _, a := range addresses(t) {
				if _, err := g.tcp(fmt.Sprint(a, ":", port), never); err == nil {
					t.Errorf("the guest reached a service of the machine at %v", a)
				}
			}
		}()
	}
}

func inDenied(a netip.Addr) bool {
	for _, p := range denied {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func addresses(t testing.TB) (list []netip.Addr) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip, ok := netip.AddrFromSlice(a.(*net.IPNet).IP.To4()); ok && !ip.IsLoopback() {
			list = append(list, ip)
		}
	}
	return list
}

// resolveIn asks a guest's first name server for an address.
func resolveIn(l Link, name string) (netip.Addr, error) {
	q := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, label := range strings.Split(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	q = append(q, 0, 0, 1, 0, 1)
	var c net.Conn
	err := inNS(l.NetNS, func() (err error) {
		c, err = net.DialTimeout("udp", l.DNS[0].String()+":53", soon)
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return netip.Addr{}, err
	}
	if _, err := c.Write(q); err != nil {
		return netip.Addr{}, err
	}
	b := make([]byte, 1500)
	k, err := c.Read(b)
	if err != nil {
		return netip.Addr{}, err
	}
	// The first record of type A and class IN, wherever it is after the question.
	for i := len(q); i+14 <= k; i++ {
		if binary.BigEndian.Uint32(b[i:]) == 0x00010001 && binary.BigEndian.Uint16(b[i+8:]) == 4 {
			return addrFrom(b[i+10 : i+14]), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address in an answer of %d bytes", k)
}
