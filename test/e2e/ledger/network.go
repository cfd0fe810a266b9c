package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ours reports whether a network device belongs to the installation.
func (s Scope) ours(link string) bool {
	for _, p := range s.Links {
		if p != "" && strings.HasPrefix(link, p) {
			return true
		}
	}
	return s.marked(link)
}

func (s Scope) links(_ context.Context, add func(string)) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, l := range all {
		if s.ours(l.Name) {
			add(l.Name)
		}
	}
	return nil
}

// addresses counts the addresses of our devices, and the routes to our networks
// in every table: an address that is gone may still be routed somewhere.
func (s Scope) addresses(_ context.Context, add func(string)) error {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	names := map[int]string{}
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, a := range all {
		if name := names[a.LinkIndex]; s.ours(name) {
			add(a.IP.String() + " on " + name)
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if s.routed(r) {
			add(fmt.Sprintf("route to %v type %d in table %d", r.Dst, r.Type, r.Table))
		}
	}
	return nil
}

// routed reports whether a route leads to one of our networks.
func (s Scope) routed(r netlink.Route) bool {
	if r.Dst == nil {
		return false
	}
	to, ok := netip.AddrFromSlice(r.Dst.IP)
	return ok && slices.ContainsFunc(s.Nets, func(n netip.Prefix) bool { return n.Contains(to.Unmap()) })
}

// rules counts what nft lists in tables of ours: every table, chain, rule and
// set, and every element of every set.
func (s Scope) rules(ctx context.Context, add func(string)) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return skipped("the nft command is not installed")
	}
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, nft, "-j", "list", "ruleset")
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("nft: %w: %s", err, complaint.String())
	}
	var listing struct {
		Nftables []map[string]json.RawMessage `json:"nftables"`
	}
	if err := json.Unmarshal(out, &listing); err != nil {
		return fmt.Errorf("nft: %w", err)
	}
	for _, entry := range listing.Nftables {
		for kind, raw := range entry {
			var object struct {
				Table, Name, Chain string
				Handle             int
				Elem               []json.RawMessage
			}
			if kind == "metainfo" {
				continue
			}
			if err := json.Unmarshal(raw, &object); err != nil {
				return fmt.Errorf("nft: %s: %w", kind, err)
			}
			table := object.Table
			if kind == "table" {
				table = object.Name
			}
			if !s.marked(table) {
				continue
			}
			switch kind {
			case "rule":
				add(fmt.Sprintf("rule %s %s %d", table, object.Chain, object.Handle))
			default:
				add(fmt.Sprintf("%s %s %s", kind, table, object.Name))
			}
			for _, e := range object.Elem {
				add(fmt.Sprintf("element %s %s %s", table, object.Name, e))
			}
		}
	}
	return nil
}

// sockets counts named Unix sockets of ours, and whatever the server listens on.
func (s Scope) sockets(_ context.Context, add func(string)) error {
	seen := map[string]bool{}
	err := eachLine("/proc/thread-self/net/unix", func(line string) {
		field := strings.Fields(line)
		if len(field) >= 8 && s.marked(field[7]) && !seen[field[7]] {
			seen[field[7]] = true // a connected socket has its listener's name
			add("unix " + field[7])
		}
	})
	if err != nil || s.Server == 0 {
		return err
	}
	inodes, err := socketInodes(s.Server)
	if err != nil {
		return err
	}
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		listening := map[string]string{"tcp": "0A", "udp": "07"}[proto[:3]]
		err := eachLine("/proc/thread-self/net/"+proto, func(line string) {
			field := strings.Fields(line)
			if len(field) >= 10 && field[3] == listening && inodes[field[9]] {
				add(proto + " " + address(field[1]))
			}
		})
		if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(proto, "6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func eachLine(path string, do func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		do(lines.Text())
	}
	return lines.Err()
}

// address turns the kernel's "0100007F:1F90" into "127.0.0.1:8080".
func address(s string) string {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil {
		return s
	}
	for i := 0; i+4 <= len(raw); i += 4 { // four bytes at a time, in host order
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	return net.JoinHostPort(net.IP(raw).String(), strconv.FormatUint(n, 10))
}

func socketInodes(pid int) (map[string]bool, error) {
	inodes := map[string]bool{}
	err := eachFD(pid, func(target string) {
		if rest, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(rest, "]")] = true
		}
	})
	return inodes, err
}

func eachFD(pid int, do func(target string)) error {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		do(target)
	}
	return nil
}

var number = regexp.MustCompile(`\[\d+\]`)

// fds counts the server's open descriptors by kind.
func (s Scope) fds(_ context.Context, add func(string)) error {
	if s.Server == 0 {
		return nil
	}
	return eachFD(s.Server, func(target string) { add(number.ReplaceAllString(target, "")) })
}

var goroutineTotal = regexp.MustCompile(`total (\d+)`)

func (s Scope) goroutines(ctx context.Context, add func(string)) error {
	if s.Server == 0 {
		return nil
	}
	if s.Debug == "" {
		return skipped("the server offers no goroutine profile")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Debug, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	m := goroutineTotal.FindSubmatch(body)
	if resp.StatusCode != http.StatusOK || m == nil {
		return fmt.Errorf("goroutine profile: %s", resp.Status)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return err
	}
	for range n {
		add("goroutine")
	}
	return nil
}

func (s Scope) rows(ctx context.Context, add func(string)) error {
	if s.ListAll == nil {
		return skipped("no API to ask")
	}
	ids, err := s.ListAll(ctx)
	for _, id := range ids {
		add(id)
	}
	return err
}
