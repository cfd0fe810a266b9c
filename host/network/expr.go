package network

import (
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The words below put rules together so that filter.go can be read as rules.
// Each returns a match, which lets the packet go on to the next word or ends
// the rule, or a verdict. Registers 1 (16 bytes) and 12 to 15 (4 bytes each)
// are scratch; a name of an interface followed by addresses makes one key.
const (
	reg      = 1
	regWord4 = unix.NFT_REG32_00 + 4
	regWord5 = unix.NFT_REG32_00 + 5
	regWord1 = unix.NFT_REG32_00 + 1
)

type words = []expr.Any

// rule joins words.
func rule(parts ...words) words {
	var all words
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func equal(b ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: b}
}

func notEqual(b ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: b}
}

func meta(k expr.MetaKey) expr.Any { return &expr.Meta{Key: k, Register: reg} }

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return loadTo(reg, base, offset, length)
}

func loadTo(r uint32, base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: r, Base: base, Offset: offset, Len: length}
}

// ifname fills the 16 bytes of a kernel interface name.
func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

// Interfaces. The comparison with a name's beginning is what nft shows as "hx*".
func from(beginning string) words {
	return words{meta(expr.MetaKeyIIFNAME), equal([]byte(beginning)...)}
}
func notFrom(beginning string) words {
	return words{meta(expr.MetaKeyIIFNAME), notEqual([]byte(beginning)...)}
}
func fromExactly(name string) words {
	return words{meta(expr.MetaKeyIIFNAME), equal(ifname(name)...)}
}
func to(beginning string) words {
	return words{meta(expr.MetaKeyOIFNAME), equal([]byte(beginning)...)}
}
func notTo(beginning string) words {
	return words{meta(expr.MetaKeyOIFNAME), notEqual([]byte(beginning)...)}
}
func fromIn(s *nftables.Set) words {
	return words{meta(expr.MetaKeyIIFNAME), in(s)}
}
func fromNotIn(s *nftables.Set) words {
	return words{meta(expr.MetaKeyIIFNAME), notIn(s)}
}
func toIn(s *nftables.Set) words {
	return words{meta(expr.MetaKeyOIFNAME), in(s)}
}

func in(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg, SetName: s.Name}
}
func notIn(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg, SetName: s.Name, Invert: true}
}

// Protocols.
var (
	ipv4    = words{meta(expr.MetaKeyNFPROTO), equal(unix.NFPROTO_IPV4)}
	notIPv4 = words{meta(expr.MetaKeyNFPROTO), notEqual(unix.NFPROTO_IPV4)}
	tcp     = words{meta(expr.MetaKeyL4PROTO), equal(unix.IPPROTO_TCP)}
	udp     = words{meta(expr.MetaKeyL4PROTO), equal(unix.IPPROTO_UDP)}
	icmp    = words{meta(expr.MetaKeyL4PROTO), equal(unix.IPPROTO_ICMP)}
	ping    = rule(icmp, words{load(expr.PayloadBaseTransportHeader, 0, 1), equal(8)})

	// Version 4 and a header of five words: no IP options.
	withOptions = words{load(expr.PayloadBaseNetworkHeader, 0, 1), notEqual(0x45)}
)

func toPort(p uint16) words {
	return words{load(expr.PayloadBaseTransportHeader, 2, 2), equal(binary.BigEndian.AppendUint16(nil, p)...)}
}

// Addresses. Only after ipv4.
func srcIn(s *nftables.Set) words {
	return words{load(expr.PayloadBaseNetworkHeader, 12, 4), in(s)}
}
func dstIn(s *nftables.Set) words {
	return words{load(expr.PayloadBaseNetworkHeader, 16, 4), in(s)}
}

// srcNotOfLink matches a source address that the interface may not use.
func srcNotOfLink(guests *nftables.Set) words {
	return words{meta(expr.MetaKeyIIFNAME), loadTo(regWord4, expr.PayloadBaseNetworkHeader, 12, 4), notIn(guests)}
}

// arpOfLink matches ARP from the interface's guest about its gateway.
func arpOfLink(guests *nftables.Set) words {
	return words{
		meta(expr.MetaKeyIIFNAME),
		loadTo(regWord4, expr.PayloadBaseNetworkHeader, 14, 4), // sender's address
		loadTo(regWord5, expr.PayloadBaseNetworkHeader, 24, 4), // target's address
		in(guests),
	}
}

// dstPortIn matches destination address and port. Only after tcp or udp.
func dstPortIn(s *nftables.Set) words {
	return words{
		load(expr.PayloadBaseNetworkHeader, 16, 4),
		loadTo(regWord1, expr.PayloadBaseTransportHeader, 2, 2),
		in(s),
	}
}

// Connections.
func state(bits uint32) words {
	return words{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		notEqual(0, 0, 0, 0),
	}
}

// ipsDstNAT is IPS_DST_NAT of the kernel's nf_conntrack_common.h.
const ipsDstNAT = 1 << 5

var (
	established = state(expr.CtStateBitESTABLISHED)
	related     = state(expr.CtStateBitRELATED)
	opening     = state(expr.CtStateBitNEW)
	invalid     = state(expr.CtStateBitINVALID)

	// reply is the direction against the connection's first packet.
	reply = words{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg}, equal(1)}

	// rewrittenDNS matches connections that were sent to port 53 of one
	// address and whose destination was then changed.
	rewrittenDNS = words{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		notEqual(0, 0, 0, 0),
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: reg, Direction: 0},
		equal(binary.BigEndian.AppendUint16(nil, 53)...),
	}
)

// moreFlowsThan matches when the source has more than n connections.
func moreFlowsThan(n uint32, flows *nftables.Set) words {
	return words{
		load(expr.PayloadBaseNetworkHeader, 12, 4),
		&expr.Dynset{
			SrcRegKey: reg, SetName: flows.Name, Operation: unix.NFT_DYNSET_OP_ADD,
			Exprs: []expr.Any{&expr.Connlimit{Count: n, Flags: expr.NFT_CONNLIMIT_F_INV}},
		},
	}
}

// Verdicts. Everything that stops a packet counts it.
var (
	accept = words{&expr.Verdict{Kind: expr.VerdictAccept}}
	pass   = words{&expr.Verdict{Kind: expr.VerdictReturn}}
	drop   = words{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}

	// The host answers in place of the destination, so that a program in a
	// guest hears at once that it may not instead of waiting for minutes.
	reset  = words{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	refuse = words{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}

	masquerade = words{&expr.Masq{}}
)

func jump(chain string) words {
	return words{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// rewriteDst changes the destination to what the map has for it.
func rewriteDst(m *nftables.Set) words {
	return words{
		load(expr.PayloadBaseNetworkHeader, 16, 4),
		&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: m.Name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg, RegProtoMin: regWord1},
	}
}
