package network

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests run in a machine of their own: the test binary starts itself again
// in a fresh network and mount namespace, whose "internet" is a third namespace
// on a link. Nothing they do, to sysctls, rules or interfaces, touches the
// machine they run on, and nothing they send leaves it.
const (
	inLab     = "HUTCH_NETWORK_LAB"
	onMachine = "HUTCH_NETWORK_MACHINE" // see machine_test.go
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(onMachine) != "":
		os.Exit(m.Run())
	case os.Getenv(inLab) != "":
		os.Exit(runInLab(m))
	case os.Geteuid() != 0:
		fmt.Println("only tests that need no root are run: network namespaces need it")
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inLab+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "start in namespaces:", err)
		os.Exit(1)
	}
}

var theLab *lab

func runInLab(m *testing.M) int {
	var err error
	if theLab, err = newLab(); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	defer theLab.close()
	return m.Run()
}

// Addresses of the lab. The internet namespace has all of these, and would
// answer at them, if only a packet got there.
const (
	uplinkHost = "5.5.5.2"
	uplinkFar  = "5.5.5.1"
	farWeb     = "93.184.216.34"
	farWeb2    = "8.8.8.8"
	farDNS     = "10.255.255.53"
	farDNS2    = "10.255.255.54"
)

// farDenied has one address or more of each denied range that an interface can have.
var farDenied = []string{
	"0.1.2.3", "10.0.0.5", "10.255.255.53", "100.64.0.5", "100.100.100.200", "169.254.169.254", "169.254.170.2", "169.254.53.53",
	"172.16.0.5", "172.31.255.5", "192.0.0.8", "192.0.0.192", "192.0.2.8", "192.88.99.1", "192.168.1.5", "198.18.0.8", "198.19.255.8",
	"198.51.100.8", "203.0.113.80", "240.0.0.5", "255.255.255.254",
}

// farUnbindable are destinations no interface can have.
var farUnbindable = []string{"224.0.0.1", "239.255.255.250", "255.255.255.255"}

type lab struct {
	far     string // path of the internet's namespace
	sniff   *sniffer
	closers []func()
}

func newLab() (*lab, error) {
	l := &lab{far: runNetns + "/far"}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(runNetns, 0o755); err != nil {
		return nil, err
	}
	// The copies of the machine's own mounts would keep its namespaces alive.
	for unix.Unmount(runNetns, unix.MNT_DETACH) == nil {
	}
	if err := unix.Mount("lab", runNetns, "tmpfs", 0, "mode=755"); err != nil {
		return nil, err
	}
	if err := makeNS(l.far); err != nil {
		return nil, err
	}
	script := `set -e
ip link set lo up
ip link add up0 mtu 1400 type veth peer name far0 mtu 1400 netns far
sysctl -qw net.ipv6.conf.up0.accept_dad=0
ip addr add ` + uplinkHost + `/24 dev up0
ip link set up0 up
ip netns exec far sysctl -qw net.ipv6.conf.far0.disable_ipv6=0 net.ipv6.conf.far0.accept_dad=0
ip -n far addr add ` + uplinkFar + `/24 dev far0
ip -n far link set far0 up
ip -n far link set lo up
ip route add default via ` + uplinkFar + `
for a in ` + strings.Join(append([]string{farWeb, farWeb2, farDNS2}, farDenied...), " ") + `; do ip -n far addr add $a/32 dev lo; done
ip addr add 192.168.77.1/32 dev lo
`
	if err := sh(script); err != nil {
		return nil, err
	}
	err := inNS(l.far, func() error {
		for _, port := range []string{"25", "53", "80", "8080"} {
			if err := l.serveTCP("0.0.0.0:"+port, "far"); err != nil {
				return err
			}
			if err := l.serveUDP("0.0.0.0:"+port, "far"); err != nil {
				return err
			}
		}
		var err error
		l.sniff, err = newSniffer("far0")
		return err
	})
	if err != nil {
		return nil, err
	}
	// Services of the host, on every address and family.
	for _, at := range []string{"0.0.0.0:9000", "[::]:9001", "127.0.0.1:9002"} {
		if err := l.serveTCP(at, "host"); err != nil {
			return nil, err
		}
		if err := l.serveUDP(at, "host"); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *lab) close() {
	for _, c := range l.closers {
		c()
	}
}

// serveTCP greets whoever connects with a line that says who called, then echoes lines.
func (l *lab) serveTCP(at, who string) error {
	ln, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, who, "sees", c.RemoteAddr().(*net.TCPAddr).IP)
				for in := bufio.NewScanner(c); in.Scan(); {
					fmt.Fprintln(c, in.Text())
				}
			}()
		}
	}()
	return nil
}

// serveUDP answers each packet with who sees whom.
func (l *lab) serveUDP(at, who string) error {
	a, err := net.ResolveUDPAddr("udp", at)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp", a)
	if err != nil {
		return err
	}
	// Answers must come from the address that was asked.
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) })
	l.closers = append(l.closers, func() { c.Close() })
	go func() {
		b, oob := make([]byte, 2048), make([]byte, 256)
		for {
			_, k, _, from, err := c.ReadMsgUDP(b, oob)
			if err != nil {
				return
			}
			c.WriteMsgUDP([]byte(fmt.Sprint(who, " sees ", from.IP)), answerFrom(oob[:k]), from)
		}
	}()
	return nil
}

// answerFrom turns the packet information received into one to send with.
func answerFrom(oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12 {
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])})
		}
	}
	return nil
}

// makeNS makes a namespace with a name, as `ip netns add` does.
func makeNS(path string) error {
	return onThread(func() error { return newNamespace(path) })
}

// inNS runs f in a namespace. Sockets that f makes stay there.
func inNS(path string, f func() error) error {
	return onThread(func() error {
		if err := enterNamespace(path); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

func sh(script string) error {
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// shell returns what a command prints.
func shell(t testing.TB, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// A sniffer sees every packet that arrives on an interface.
type sniffer struct {
	fd    int
	mu    sync.Mutex
	pkts  [][]byte // from the Ethernet header on
	marks atomic.Uint32
}

func newSniffer(iface string) (*sniffer, error) {
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}); err != nil {
		return nil, err
	}
	s := &sniffer{fd: fd}
	go func() {
		b := make([]byte, 65536)
		for {
			k, from, err := unix.Recvfrom(fd, b, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			s.mu.Lock()
			s.pkts = append(s.pkts, slices.Clone(b[:k]))
			s.mu.Unlock()
		}
	}()
	return s, nil
}

// since returns the IPv4 packets that came between two marks; the second is sent
// now and waited for, so that what was sent before it has come too.
func (s *sniffer) since(t testing.TB, mark uint32) []packet {
	t.Helper()
	end := s.mark(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []packet
	on := false
	for _, b := range s.pkts {
		p := parsePacket(b)
		if m, ok := p.marker(); ok {
			on = on || m == mark
			if m == end {
				break
			}
			continue
		}
		// When a guest with a connection is gone, what the other side still
		// sends meets no connection at the host, which resets it.
		if on && p.proto != 0 && !p.rst {
			out = append(out, p)
		}
	}
	return out
}

// mark sends a numbered packet over the uplink and waits until the sniffer has it.
func (s *sniffer) mark(t testing.TB) uint32 {
	t.Helper()
	m := s.marks.Add(1)
	c, err := net.Dial("udp4", uplinkFar+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "mark%08x", m); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sniffer has its mark", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, b := range slices.Backward(s.pkts) {
			if k, ok := parsePacket(b).marker(); ok && k == m {
				return true
			}
		}
		return false
	})
	return m
}

type packet struct {
	src, dst netip.Addr
	proto    byte
	dport    uint16
	body     []byte
	rst      bool
}

func (p packet) String() string { return fmt.Sprintf("%v>%v:%d/%d", p.src, p.dst, p.dport, p.proto) }

func parsePacket(b []byte) packet {
	if len(b) < 34 || b[12] != 8 || b[13] != 0 {
		return packet{}
	}
	ip := b[14:]
	p := packet{proto: ip[9]}
	p.src, _ = netip.AddrFromSlice(ip[12:16])
	p.dst, _ = netip.AddrFromSlice(ip[16:20])
	rest := ip[int(ip[0]&15)*4:]
	if (p.proto == 6 || p.proto == 17) && len(rest) >= 8 {
		p.dport = uint16(rest[2])<<8 | uint16(rest[3])
		p.body = rest[8:]
		p.rst = p.proto == 6 && len(rest) >= 20 && rest[13]&4 != 0
	}
	return p
}

func (p packet) marker() (uint32, bool) {
	if p.proto != 17 || p.dport != 9 || !bytes.HasPrefix(p.body, []byte("mark")) {
		return 0, false
	}
	var m uint32
	_, err := fmt.Sscanf(string(p.body[4:12]), "%08x", &m)
	return m, err == nil
}

// eventually waits for a condition that another thread or the kernel brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("after 10 s it is still not so that %s", what)
		}
	}
}

// needLab skips tests where there cannot be one.
func needLab(t testing.TB) *lab {
	t.Helper()
	if theLab == nil {
		t.Skip("needs root, to make network namespaces")
	}
	return theLab
}

var tags atomic.Int32

// open makes a network with a tag of its own and removes it with the test.
func open(t testing.TB, change ...func(*Config)) *Net {
	t.Helper()
	needLab(t)
	cfg := Config{
		Tag: fmt.Sprintf("t%03d", tags.Add(1)), Dir: t.TempDir(),
		Resolvers: []netip.AddrPort{netip.MustParseAddrPort(farDNS + ":53")},
		Log:       slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	n, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	latest.Store(cfg.Tag, n)
	t.Cleanup(func() {
		v, _ := latest.LoadAndDelete(cfg.Tag)
		n := v.(*Net)
		if err := n.Purge(); err != nil {
			t.Errorf("purge: %v", err)
		}
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

// latest has for each tag the network that was opened last.
var latest sync.Map

// reopen does what a restart of the server does.
func reopen(t testing.TB, n *Net) *Net {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := Open(t.Context(), n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	latest.Store(n.cfg.Tag, m)
	return m
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func attach(t testing.TB, n *Net, slot int, internet bool) Link {
	t.Helper()
	l, err := n.Attach(t.Context(), slot, internet)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A guest tries the network from inside its namespace. What it returns is what
// came back, or the error.
type guest interface {
	tcp(addr string, wait time.Duration) (string, error)
	udp(addr string, wait time.Duration) (string, error)
	ping(ip string, wait time.Duration) (string, error)
	hold(addr string) error
	say(words string) (string, error)
}

// plainGuest uses ordinary sockets of the namespace.
type plainGuest struct {
	t    testing.TB
	link Link
	held net.Conn
	in   *bufio.Reader
}

func newPlainGuest(t testing.TB, l Link) *plainGuest {
	g := &plainGuest{t: t, link: l}
	t.Cleanup(func() {
		if g.held != nil {
			g.held.Close()
		}
	})
	return g
}

func (g *plainGuest) tcp(addr string, wait time.Duration) (string, error) {
	var c net.Conn
	err := inNS(g.link.NetNS, func() (err error) {
		c, err = net.DialTimeout("tcp", addr, wait)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "connected", nil
	}
	return strings.TrimSpace(line), nil
}

func (g *plainGuest) udp(addr string, wait time.Duration) (string, error) {
	var c net.Conn
	err := inNS(g.link.NetNS, func() (err error) {
		c, err = net.DialTimeout("udp", addr, wait)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := io.WriteString(c, "probe"); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	k, err := c.Read(b)
	return string(b[:k]), err
}

func (g *plainGuest) ping(ip string, wait time.Duration) (string, error) {
	var c net.Conn
	err := inNS(g.link.NetNS, func() (err error) {
		c, err = net.DialTimeout("ip4:icmp", ip, wait)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	for {
		k, err := c.Read(b)
		if err != nil {
			return "", err
		}
		// Before it is connected, a raw socket hears everybody's ICMP.
		if k > 20 && net.IP(b[12:16]).String() == ip && b[20] == 0 {
			return "pong", nil
		}
	}
}

func (g *plainGuest) hold(addr string) error {
	err := inNS(g.link.NetNS, func() (err error) {
		g.held, err = net.DialTimeout("tcp", addr, 2*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	g.in = bufio.NewReader(g.held)
	_, err = g.in.ReadString('\n') // the greeting
	return err
}

func (g *plainGuest) say(words string) (string, error) {
	g.held.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := fmt.Fprintln(g.held, words); err != nil {
		return "", err
	}
	line, err := g.in.ReadString('\n')
	return strings.TrimSpace(line), err
}

// listen serves in the guest's namespace as serveTCP does.
func (g *plainGuest) listen(port string) {
	g.t.Helper()
	l := &lab{}
	g.t.Cleanup(l.close)
	err := inNS(g.link.NetNS, func() error { return l.serveTCP("0.0.0.0:"+port, "guest") })
	if err != nil {
		g.t.Fatal(err)
	}
}

// tmp is a short directory for sockets and state of runsc.
func tmp(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "hutchnet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d); err != nil {
			t.Error(err)
		}
	})
	return d
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// lines joins for messages.
func lines[T any](s []T) string {
	var b strings.Builder
	for _, v := range s {
		fmt.Fprintf(&b, "\n  %v", v)
	}
	return b.String()
}

func base(p string) string { return filepath.Base(p) }
