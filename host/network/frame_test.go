package network

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A frames socket sends whatever it likes on a guest's end of the link: what a
// sandbox whose kernel was taken over could send.
type frames struct {
	fd, index int
	from      net.HardwareAddr
}

func rawSocket(t testing.TB, l Link) *frames {
	t.Helper()
	return rawSocketOn(t, l.NetNS, guestIf)
}

func rawSocketOn(t testing.TB, ns, iface string) *frames {
	t.Helper()
	f := &frames{}
	err := inNS(ns, func() (err error) {
		link, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		f.index, f.from = link.Attrs().Index, link.Attrs().HardwareAddr
		f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

func (f *frames) send(t testing.TB, dst net.HardwareAddr, kind uint16, payload []byte) {
	t.Helper()
	b := append(append(append([]byte{}, dst...), f.from...), byte(kind>>8), byte(kind))
	b = append(b, payload...)
	err := unix.Sendto(f.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: f.index, Halen: 6})
	if err != nil {
		t.Fatalf("send a frame: %v", err)
	}
}

// ears hear frames of one kind on all interfaces, as a daemon of the host does,
// and count those of one link.
type ears struct{ fd, index int }

func listenFrames(t testing.TB, l Link, kind uint16) *ears {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: kind<<8 | kind>>8}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(l.HostIf)
	if err != nil {
		t.Fatal(err)
	}
	return &ears{fd, link.Attrs().Index}
}

// until counts what has been heard when a last frame, sent by last, must have
// been handled. Sending on a veth handles a frame at the latest in the next
// software interrupt of this CPU, so a short silence after it is enough.
func (e *ears) until(t testing.TB, last func()) int {
	t.Helper()
	last()
	b, got := make([]byte, 2048), 0
	for {
		_, from, err := unix.Recvfrom(e.fd, b, 0)
		if errors.Is(err, unix.EAGAIN) {
			return got
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && ll.Ifindex == e.index {
			got++
		}
	}
}

// A nsSniffer is a sniffer on a guest's end.
type nsSniffer struct {
	*sniffer
	t testing.TB
}

func sniffOn(t testing.TB, ns, iface string) *nsSniffer {
	t.Helper()
	s := &nsSniffer{t: t}
	err := inNS(ns, func() (err error) {
		s.sniffer, err = newSniffer(iface)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Shutdown(s.fd, unix.SHUT_RDWR); unix.Close(s.fd) })
	return s
}

// from returns the IPv4 packets that came from an address, or any.
func (s *nsSniffer) from(a netip.Addr) []packet {
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []packet
	for _, b := range s.pkts {
		if p := parsePacket(b); p.proto != 0 && (!a.IsValid() || p.src == a) {
			out = append(out, p)
		}
	}
	return out
}

// arpReplies returns whose addresses were answered for.
func (s *nsSniffer) arpReplies() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []netip.Addr
	for _, b := range s.pkts {
		if len(b) >= 42 && b[12] == 8 && b[13] == 6 && b[21] == 2 {
			out = append(out, addrFrom(b[28:32]))
		}
	}
	return out
}

// settle waits until a read after now has found nothing more.
func (s *nsSniffer) settle() {
	before := -1
	for {
		s.mu.Lock()
		k := len(s.pkts)
		s.mu.Unlock()
		if k == before {
			return
		}
		before = k
		unix.Poll([]unix.PollFd{}, int((50 * time.Millisecond).Milliseconds()))
	}
}

func ipPacket(src, dst string, proto byte, payload []byte) []byte {
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	b := []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0}
	b = append(append(b, s[:]...), d[:]...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	switch proto {
	case 6:
		binary.BigEndian.PutUint16(payload[16:], checksum(pseudo(s, d, proto, payload)))
	}
	return append(b, payload...)
}

func pseudo(s, d [4]byte, proto byte, payload []byte) []byte {
	b := append(append([]byte{}, s[:]...), d[:]...)
	b = append(b, 0, proto, byte(len(payload)>>8), byte(len(payload)))
	return append(b, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// withOption makes room for four bytes of no-operation in the header.
func withOption(b []byte) []byte {
	out := append(append(append([]byte{}, b[:20]...), 1, 1, 1, 0), b[20:]...)
	out[0] = 0x46
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	out[10], out[11] = 0, 0
	binary.BigEndian.PutUint16(out[10:], checksum(out[:24]))
	return out
}

// udpTo has no checksum, which IPv4 allows.
func udpTo(port uint16) []byte {
	return []byte{0x80, 0, byte(port >> 8), byte(port), 0, 12, 0, 0, 'x', 'y', 'z', 0}
}

func tcpTo(port uint16) []byte {
	return []byte{0x80, 1, byte(port >> 8), byte(port), 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0}
}

func arpPacket(op byte, mac net.HardwareAddr, src, dst netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, op}
	b = append(append(b, mac...), src.AsSlice()...)
	return append(append(b, make([]byte, 6)...), dst.AsSlice()...)
}
