package network

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Every link has a BPF program where packets enter the host. It lets only
// untagged IPv4 and ARP pass. An ingress chain of nftables for each link could
// do the same, but it would go when somebody flushes the ruleset, and IPv6 with
// its link-local addresses is what must not come back then. The program belongs
// to the link alone: it stays as long as the link does and goes with it.

// A bpfInsn is one instruction, as in the kernel's linux/bpf.h.
type bpfInsn struct {
	code   uint8
	regs   uint8 // source register in the upper half, destination in the lower
	offset int16
	imm    int32
}

// Instruction codes, return values of a classifier, and offsets in __sk_buff.
const (
	bpfLoadWord   = 0x61 // dst = *(u32 *)(src + offset)
	bpfJumpIfNe   = 0x55 // if dst != imm skip offset instructions
	bpfJumpIfEq   = 0x15 // if dst == imm skip offset instructions
	bpfMoveImm    = 0xb7 // dst = imm
	bpfExit       = 0x95
	tcUnspec      = -1 // go on
	tcShot        = 2  // drop
	skbProtocol   = 16 // big-endian ethertype
	skbVlan       = 20 // not 0: the frame had a VLAN tag
	bpfProgLoad   = 5
	bpfSchedCls   = 3
	ingressName   = "hutch_ethertype"
	ingressHandle = 1
)

func ingressProgram() []bpfInsn {
	be := func(ethertype uint16) int32 {
		var b [2]byte
		binary.BigEndian.PutUint16(b[:], ethertype)
		return int32(binary.NativeEndian.Uint16(b[:]))
	}
	reg2from1 := uint8(1<<4 | 2)
	if isBigEndian() {
		reg2from1 = 2<<4 | 1
	}
	reg := func(dst uint8) uint8 {
		if isBigEndian() {
			return dst << 4
		}
		return dst
	}
	return []bpfInsn{
		{bpfLoadWord, reg2from1, skbVlan, 0},
		{bpfJumpIfNe, reg(2), 3, 0},
		{bpfLoadWord, reg2from1, skbProtocol, 0},
		{bpfJumpIfEq, reg(2), 3, be(unix.ETH_P_IP)},
		{bpfJumpIfEq, reg(2), 2, be(unix.ETH_P_ARP)},
		{bpfMoveImm, reg(0), 0, tcShot},
		{bpfExit, 0, 0, 0},
		{bpfMoveImm, reg(0), 0, tcUnspec},
		{bpfExit, 0, 0, 0},
	}
}

func isBigEndian() bool { return binary.NativeEndian.Uint16([]byte{0, 1}) == 1 }

// loadIngress gives the program to the kernel and returns its descriptor.
func loadIngress() (int, error) {
	insns := ingressProgram()
	license := []byte("GPL\x00")
	// The beginning of union bpf_attr; the rest is zero.
	attr := struct {
		progType, insnCount uint32
		insns, license      uint64
		logLevel, logSize   uint32
		logBuf              uint64
		kernVersion, flags  uint32
		name                [16]byte
	}{
		progType: bpfSchedCls, insnCount: uint32(len(insns)),
		insns:   uint64(uintptr(unsafe.Pointer(&insns[0]))),
		license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(attr.name[:15], ingressName)
	fd, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgLoad, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(insns)
	runtime.KeepAlive(license)
	if errno != 0 {
		return -1, fmt.Errorf("bpf: %w", errno)
	}
	return int(fd), nil // close-on-exec, as the kernel makes them all
}

// guard puts the program on the link.
func (n *Net) guard(h *netlink.Handle, index int) error {
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := h.QdiscAdd(q); err != nil {
		return fmt.Errorf("clsact: %w", err)
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: ingressHandle,
			Protocol: unix.ETH_P_ALL, Priority: 1,
		},
		Fd: n.prog, Name: ingressName, DirectAction: true,
	}
	if err := h.FilterAdd(f); err != nil {
		return fmt.Errorf("cls_bpf: %w", err)
	}
	return nil
}
