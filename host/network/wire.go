package network

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A wire is a standing connection to the kernel's packet filter and connection
// table. It stands because closing one is slow: the kernel keeps whoever closes
// a netfilter socket, and all transactions of others, until it has freed what
// was deleted before, which takes an RCU grace period or two (10 ms). A
// transaction itself takes 0.1 ms.
type wire struct {
	// mu makes exchanges follow one another, as the kernel would anyway. It is
	// held over them on purpose.
	mu  sync.Mutex
	nft *nftables.Conn
	raw *nl.SocketHandle
}

func newWire() (*wire, error) {
	nft, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("connect to nftables: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to netfilter: %w", err), nft.CloseLasting())
	}
	return &wire{nft: nft, raw: &nl.SocketHandle{Socket: s}}, nil
}

func (w *wire) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.raw.Close()
	return w.nft.CloseLasting()
}

// batch sends what fill puts together as one transaction: all of it happens, at
// one instant for every packet, or nothing.
func (w *wire) batch(fill func(*nftables.Conn) error) error {
	return w.ask(func(c *nftables.Conn) error {
		if err := fill(c); err != nil {
			return err
		}
		return c.Flush()
	})
}

// ask lends the connection. After an error it is replaced, since answers may
// wait in it that the next exchange would take for its own.
func (w *wire) ask(f func(*nftables.Conn) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := f(w.nft)
	if err == nil {
		return nil
	}
	fresh, ferr := nftables.New(nftables.AsLasting())
	if ferr != nil {
		return fmt.Errorf("nftables: %w", errors.Join(err, ferr))
	}
	old := w.nft
	w.nft = fresh
	return fmt.Errorf("nftables: %w", errors.Join(err, old.CloseLasting()))
}

// request sends one message of our own making and returns the answers of one type.
func (w *wire) request(req *nl.NetlinkRequest, answers uint16) ([][]byte, error) {
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: w.raw}
	return req.Execute(unix.NETLINK_NETFILTER, answers)
}

// hasElement reports whether a set has an element. A set that is absent has none.
func (w *wire) hasElement(s *nftables.Set, key []byte) (bool, error) {
	const message = unix.NFNL_SUBSYS_NFTABLES << 8
	req := nl.NewNetlinkRequest(message|unix.NFT_MSG_GETSETELEM, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(s.Table.Family), Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(s.Table.Name)))
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(s.Name)))
	list := nl.NewRtAttr(unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, nil)
	list.AddRtAttr(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, nil).
		AddRtAttr(unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_KEY, nil).
		AddRtAttr(unix.NFTA_DATA_VALUE, key)
	req.AddData(list)
	got, err := w.request(req, message|unix.NFT_MSG_NEWSETELEM)
	if gone(err) {
		return false, nil
	}
	return len(got) > 0, err
}

// setElements returns what a set holds; nothing if it, or its table, is absent.
func (w *wire) setElements(s *nftables.Set) (es []nftables.SetElement, err error) {
	err = w.ask(func(c *nftables.Conn) error {
		if es, err = c.GetSetElements(s); err == nil {
			return nil
		}
		return fmt.Errorf("list set %s: %w", s.Name, err)
	})
	if err == nil {
		return es, nil
	}
	// The library does not keep the error number of "no such set".
	if there, herr := w.hasSet(s); herr == nil && !there {
		return nil, nil
	}
	return nil, err
}

func (w *wire) hasSet(s *nftables.Set) (bool, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSET, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(s.Table.Family), Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_TABLE, nl.ZeroTerminated(s.Table.Name)))
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_NAME, nl.ZeroTerminated(s.Name)))
	_, err := w.request(req, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSET)
	if gone(err) {
		return false, nil
	}
	return err == nil, err
}

// chains returns the chains of all tables.
func (w *wire) chains() (chains []*nftables.Chain, err error) {
	err = w.ask(func(c *nftables.Conn) error {
		chains, err = c.ListChains()
		return err
	})
	return chains, err
}

// tables returns the tables of family inet.
func (w *wire) tables() (tables []*nftables.Table, err error) {
	err = w.ask(func(c *nftables.Conn) error {
		tables, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
		return err
	})
	return tables, err
}

// comments returns the comments of a table's rules, by chain and in order;
// none if there is no such table. google/nftables cannot do it: it stops at rules
// that look at one direction of a connection, whose number it sends in four bytes
// and gets back in one.
func (w *wire) comments(t *nftables.Table) (map[string][]string, error) {
	msgs, err := again(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(t.Family), Version: nl.NFNETLINK_V0})
		req.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)))
		return w.request(req, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE)
	})
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	said := map[string][]string{}
	for _, m := range msgs {
		table, _ := attribute(m, nfgenLen, unix.NFTA_RULE_TABLE)
		chain, _ := attribute(m, nfgenLen, unix.NFTA_RULE_CHAIN)
		data, _ := attribute(m, nfgenLen, unix.NFTA_RULE_USERDATA)
		if word(table) == t.Name {
			text, _ := userdata.GetString(data, userdata.TypeComment)
			said[word(chain)] = append(said[word(chain)], strings.TrimRight(text, "\x00"))
		}
	}
	return said, nil
}

// word is a string as netlink has it, without the zero at its end.
func word(b []byte) string { return strings.TrimRight(string(b), "\x00") }
