// Package network gives each sandbox a network namespace of its own, one link
// to the host, and a filter that decides what may pass over that link.
//
// It owns every kernel object that carries its installation's tag: namespaces
// hutch-<tag>-<slot>, links hx<tag>-<slot>, the nftables tables hutch_<tag>
// (families inet and arp), one unreachable route for the subnet, and the
// forwarding switch of interfaces it had to turn on. It never touches an
// nftables table or an interface of anybody else. It must not know what runs in
// a namespace, what a sandbox is for, or who may have one.
//
// # The filter is on the host's side
//
// gVisor sends and receives through a packet socket on the namespace's end of
// the link, beneath that namespace's own netfilter hooks: rules in there filter
// nothing. So all rules are in the host's namespace, keyed on the name of the
// interface a packet came in by, which a guest cannot choose. A packet of a
// guest meets, in this order:
//
//  1. a small BPF program on the link: only untagged IPv4 and ARP go on;
//  2. table arp: only ARP from the guest's address about its gateway;
//  3. table inet, chain first: only the guest's own source address;
//  4. chain input, if it is for the host: only replies to the host;
//  5. chain forward, if it is for elsewhere: only of guests with internet, never
//     to another guest, never to a private or reserved range unless the
//     operator's allow-list says so.
//
// Steps that do not need nftables (1, no IPv6, strict reverse path, forwarding
// off on the link of a guest without internet) stay when somebody flushes the
// whole ruleset; [Net.Watch] puts the rest back at once, which was measured as 0.3
// to 2 ms.
//
// # Living beside others
//
// A packet has to be accepted by every table, so a drop by another firewall
// stands. Docker's iptables rules set the FORWARD policy to DROP if Docker was
// the one who turned forwarding on; guests then have no internet until the
// operator says, for the tag in use:
//
//	iptables -I DOCKER-USER -i 'hx<tag>-+' -j ACCEPT
//	iptables -I DOCKER-USER -o 'hx<tag>-+' -j ACCEPT
//
// This package only warns of that in the log: writing into a table of Docker's
// would be undone at Docker's next start and be no business of ours.
//
// Forwarding is turned on per interface, for links with internet and for the
// uplinks their replies come in by, and net.ipv4.ip_forward is left alone. So
// that an uplink whose forwarding is on for our sake does not route for anyone
// else, what it receives may be forwarded only to links of this product.
package network

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"github.com/hutch-sh/hutch"
	"golang.org/x/sys/unix"
)

// Config says what one installation's network looks like.
type Config struct {
	// Tag is four lower-case letters or digits that no other installation on
	// this machine uses: every kernel object carries it.
	Tag string

	// Dir holds one small file that remembers the subnet. It is made if absent.
	Dir string

	// Subnet is where guests' addresses come from, four for each. The zero
	// Prefix takes the one remembered in Dir, or else picks a /16 that overlaps
	// no route or address of the host, and remembers it. Changing it cuts off
	// the guests that run.
	Subnet netip.Prefix

	// Allow lists IPv4 prefixes that guests with internet may reach although
	// they are in a range that is denied. It never opens the host itself or
	// another guest.
	Allow []netip.Prefix

	// Resolvers are the IPv4 name servers that guests' queries go to. Without
	// any, they are read from the host's resolv.conf, again at each Refresh.
	Resolvers []netip.AddrPort

	// Log receives what an operator should know; nil discards it.
	Log *slog.Logger
}

// Net is one installation's network. Its methods may be called from any
// goroutine, but those that take a slot only once at a time for each slot.
type Net struct {
	cfg   Config
	log   *slog.Logger
	sub   netip.Prefix
	cap   int
	allow []netip.Prefix
	host  *os.File // the host's network namespace
	dir   string   // where named namespaces are
	prog  int      // the BPF program on every link; a file descriptor
	wire  *wire

	// gate is held shared while one slot's objects are made or removed and
	// exclusively while the filter is compared with the links and rebuilt from
	// them: a rebuild must not bring back what is just being removed. It guards
	// no fields and is, on purpose, held over system calls.
	gate sync.RWMutex

	// deferred are links that are gone and whose memory the kernel is freeing.
	deferred sync.WaitGroup

	// step is called before every step of Attach and Detach, by its name; an
	// error makes the step fail. Tests set it.
	step func(name string) error

	mu     sync.Mutex
	slots  map[int]hutch.SandboxID
	of     map[hutch.SandboxID]int
	free   int // no slot below it is free
	up     uplinks
	dns    []netip.AddrPort
	lent   map[string]bool // interfaces whose forwarding is on for our sake
	told   map[string]bool // warnings that were given
	over   bool            // Purge has begun
	closed bool
}

// Open makes the host ready for guests, or takes over what an earlier Open with
// the same tag left: the tables are replaced in one transaction, so there is no
// moment without filter, and guests that run keep their links, their rules and
// their connections. Whatever fails, what is there stays; asking again is safe.
func Open(ctx context.Context, cfg Config) (*Net, error) {
	const op = "network.Open"
	if err := cfg.check(); err != nil {
		return nil, err
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	n := &Net{
		cfg:   cfg,
		log:   log,
		step:  func(string) error { return nil },
		slots: map[int]hutch.SandboxID{},
		of:    map[hutch.SandboxID]int{},
		lent:  map[string]bool{},
		told:  map[string]bool{},
		prog:  -1,
	}
	for _, p := range cfg.Allow {
		n.allow = append(n.allow, p.Masked())
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(op, hutch.KindOf(err), "opening the network was given up", err)
	}
	if err := n.open(ctx); err != nil {
		if rerr := n.release(); rerr != nil {
			log.Error("a network that did not open was not closed properly", "err", rerr)
		}
		return nil, err
	}
	return n, nil
}

func (n *Net) open(ctx context.Context) error {
	const op = "network.Open"
	var err error
	if n.host, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return fail(op, hutch.Internal, "the host's network namespace cannot be opened", err)
	}
	if n.dir, err = prepareNamespaceDir(); err != nil {
		return fail(op, hutch.Internal, "the directory of named network namespaces cannot be prepared", err)
	}
	if n.wire, err = newWire(); err != nil {
		return fail(op, hutch.Unsupported, "the kernel has no nftables", err)
	}
	if n.prog, err = loadIngress(); err != nil {
		return fail(op, hutch.Unsupported, "the kernel does not take the link filter; BPF and cls_bpf are needed", err)
	}
	// Installations that open at the same time must not pick the same subnet
	// or each restore what the other still needs.
	unlock, err := n.lockHost()
	if err != nil {
		return fail(op, hutch.Internal, "the directory of named network namespaces cannot be locked", err)
	}
	defer unlock()
	if n.sub, err = n.claimSubnet(); err != nil {
		return err
	}
	n.cap = capacity(n.sub)
	if err := n.recallLent(); err != nil {
		return fail(op, hutch.Internal, "the present filter cannot be read", err)
	}
	n.gate.Lock()
	defer n.gate.Unlock()
	n.readResolvers()
	if err := n.install(); err != nil {
		return fail(op, hutch.Unsupported, "the kernel does not take the packet filter; nftables with NAT and connection tracking is needed", err)
	}
	if err := n.findUplinks(); err != nil {
		return fail(op, hutch.Internal, "packets cannot be forwarded to the internet", err)
	}
	n.warnOfForeignDrop()
	return ctx.Err()
}

// check refuses a configuration that cannot be meant.
func (c Config) check() error {
	const op = "network.Open"
	if len(c.Tag) != 4 {
		return fail(op, hutch.Invalid, "the network's tag must be four lower-case letters or digits", nil)
	}
	for _, r := range c.Tag {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			return fail(op, hutch.Invalid, "the network's tag must be four lower-case letters or digits", nil)
		}
	}
	if c.Dir == "" {
		return fail(op, hutch.Invalid, "the network needs a directory for its state", nil)
	}
	if c.Subnet.IsValid() {
		if !c.Subnet.Addr().Is4() || c.Subnet != c.Subnet.Masked() || c.Subnet.Bits() < 8 || c.Subnet.Bits() > 30 {
			return fail(op, hutch.Invalid, "the subnet must be an IPv4 network of 8 to 30 bits, such as 10.213.0.0/16", nil)
		}
	}
	for _, p := range c.Allow {
		if !p.IsValid() || !p.Addr().Is4() {
			return fail(op, hutch.Invalid, "the allow-list takes IPv4 networks such as 10.1.0.0/16", nil)
		}
	}
	for _, r := range c.Resolvers {
		if !r.IsValid() || !r.Addr().Is4() || r.Port() == 0 || r.Addr().IsLoopback() || r.Addr().IsUnspecified() {
			return fail(op, hutch.Invalid, "a resolver must be an IPv4 address and port that is not a loopback address", nil)
		}
	}
	return nil
}

// Close lets go of what the process holds, and waits until the kernel has freed
// the links removed so far. Guests, their links and the filter stay. Closing
// twice is fine; everything else fails after it.
func (n *Net) Close() error {
	n.deferred.Wait()
	n.mu.Lock()
	closed := n.closed
	n.closed = true
	n.mu.Unlock()
	if closed {
		return nil
	}
	if err := n.release(); err != nil {
		return fail("network.Close", hutch.Internal, "the network was not closed properly", err)
	}
	return nil
}

func (n *Net) release() error {
	var errs []error
	if n.wire != nil {
		errs = append(errs, n.wire.close())
	}
	if n.prog >= 0 {
		errs = append(errs, unix.Close(n.prog)) // each link holds a reference of its own
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	return errors.Join(errs...)
}

// fail makes the one kind of error that leaves this package.
func fail(op string, kind hutch.Kind, msg string, err error) error {
	return &hutch.Error{Kind: kind, Op: op, Msg: msg, Err: err}
}
