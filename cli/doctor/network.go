package doctor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// nftables checks that the kernel takes the rules that keep sandboxes apart.
func nftables(ctx context.Context, m machine, _ Options) Finding {
	const name = "nftables"
	if m.euid != 0 {
		return skip(name, "only root may ask")
	}
	if err := m.nftables(ctx); err != nil {
		return fail(name, "the kernel refuses: "+err.Error(), "modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT; every distribution's has them")
	}
	return ok(name, "the kernel takes rules")
}

// forwarding looks at the switch of the whole machine. The server does not need
// it: it turns forwarding on for its own links and those their replies come by.
func forwarding(_ context.Context, m machine, _ Options) Finding {
	const name = "IPv4 forwarding"
	n, err := number(m.files, "proc/sys/net/ipv4/ip_forward")
	switch {
	case err != nil:
		return fail(name, "this kernel does not say whether it forwards: "+err.Error(), "mount /proc with /proc/sys; in a container: run it privileged")
	case n == 0:
		return ok(name, "off for the machine; the server turns it on for its own links")
	}
	return ok(name, "on for the machine")
}

// linksIPv6 checks the links of sandboxes that live now: rules for IPv4 do not
// stop IPv6, so it must be off.
func linksIPv6(_ context.Context, m machine, o Options) Finding {
	const name = "IPv6 on sandboxes' links"
	if o.Links == "" {
		return skip(name, "no links are known")
	}
	links, err := fs.Glob(m.files, "sys/class/net/"+o.Links+"*")
	if err != nil {
		return skip(name, err.Error())
	}
	var on []string
	for _, l := range links {
		link := l[strings.LastIndexByte(l, '/')+1:]
		n, err := number(m.files, "proc/sys/net/ipv6/conf/"+link+"/disable_ipv6")
		if err == nil && n == 0 {
			on = append(on, link)
		}
	}
	if len(on) > 0 {
		return fail(name, "on for "+strings.Join(on, ", "), "something turned it on after the server had turned it off: find it (network managers do this), then sysctl -w net.ipv6.conf.LINK.disable_ipv6=1")
	}
	return ok(name, fmt.Sprintf("off for all %d there are now", len(links)))
}

// otherFirewall looks for programs that are known to drop forwarded packets.
func otherFirewall(_ context.Context, m machine, o Options) Finding {
	const name = "other firewalls"
	var found []string
	for _, f := range []struct{ file, name string }{
		{"sys/class/net/docker0", "Docker"},
		{"run/firewalld", "firewalld"},
		{"run/ufw.lock", "ufw"},
		{"var/lib/kubelet", "Kubernetes"},
	} {
		if _, err := fs.Stat(m.files, f.file); err == nil {
			found = append(found, f.name)
		}
	}
	if len(found) > 0 {
		links := cmp.Or(o.Links, "LINK") + "+"
		return warn(name, strings.Join(found, ", ")+": may drop packets of sandboxes, which then have no internet",
			"if curl in a sandbox cannot connect, let that firewall forward. Docker: iptables -I DOCKER-USER -i "+links+
				" -j ACCEPT; iptables -I DOCKER-USER -o "+links+" -j ACCEPT")
	}
	return ok(name, "none that is known to drop forwarded packets")
}

// A listener is a TCP port of the host that is open on every address.
type listener struct {
	port  uint16
	v6    bool // [::], which on most systems takes IPv4 too
	inode uint64
}

// listeners names the host's ports that are open on every address, and so on
// the host's side of a sandbox's link. The rules of sandboxes drop what is sent
// there; a port that is bound to one address needs no such rule.
func listeners(_ context.Context, m machine, o Options) []Finding {
	const name = "open ports of the host"
	var all []listener
	for _, file := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		b, err := fs.ReadFile(m.files, file)
		if err != nil {
			continue // without IPv6 there is no tcp6
		}
		all = append(all, parseListeners(b)...)
	}
	slices.SortFunc(all, func(a, b listener) int { return cmp.Compare(a.port, b.port) })
	own := ""
	if i := strings.LastIndexByte(o.Listen, ':'); i >= 0 {
		own = o.Listen[i+1:]
	}
	var wide []string
	seen := map[string]bool{}
	for _, l := range all {
		text := "0.0.0.0:" + strconv.Itoa(int(l.port))
		if l.v6 {
			text = "[::]:" + strconv.Itoa(int(l.port))
		}
		if who := holder(m.files, l.inode); who != "" {
			text += " (" + who + ")"
		}
		if !seen[text] && strconv.Itoa(int(l.port)) != own {
			seen[text] = true
			wide = append(wide, text)
		}
	}
	if len(wide) > 0 {
		return []Finding{warn(name, "open on every address: "+strings.Join(wide, ", "),
			"bind each service to the address it is for, so that it does not depend on a firewall; [::] is the worse one, because rules for IPv4 miss it")}
	}
	return []Finding{ok(name, "none is open on every address")}
}

// parseListeners reads /proc/net/tcp or tcp6: who listens on every address.
func parseListeners(table []byte) []listener {
	const listening = "0A"
	var found []listener
	for l := range bytes.Lines(table) {
		f := strings.Fields(string(l))
		if len(f) < 10 || f[3] != listening {
			continue
		}
		a, ok := procAddr(f[1])
		if !ok || !a.Addr().IsUnspecified() {
			continue
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if err != nil {
			continue
		}
		found = append(found, listener{a.Port(), a.Addr().Is6(), inode})
	}
	return found
}

// procAddr reads an address like "0100007F:1F90": the kernel prints each group
// of four bytes as a number in the machine's own order, which is little-endian
// on everything gVisor runs on.
func procAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for g := range slices.Chunk(b, 4) {
		slices.Reverse(g)
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(p)), true
}

// holder names the process that has a socket open, or returns "". It looks at
// links, which a plain fs.FS cannot read; there it finds nothing.
func holder(files fs.FS, inode uint64) string {
	links, ok := files.(fs.ReadLinkFS)
	if !ok || inode == 0 {
		return ""
	}
	want := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	procs, err := fs.Glob(files, "proc/[0-9]*")
	if err != nil {
		return ""
	}
	for _, p := range procs {
		fds, err := fs.ReadDir(files, p+"/fd")
		if err != nil {
			continue // ended meanwhile, or not ours to see
		}
		for _, fd := range fds {
			if to, err := links.ReadLink(p + "/fd/" + fd.Name()); err != nil || to != want {
				continue
			}
			comm, err := fs.ReadFile(files, p+"/comm")
			if err != nil {
				return ""
			}
			return string(bytes.TrimSpace(comm)) + ", process " + strings.TrimPrefix(p, "proc/")
		}
	}
	return ""
}

// reach checks that what templates are made from can be fetched.
func reach(ctx context.Context, m machine, o Options) []Finding {
	var found []Finding
	for _, u := range o.Fetch {
		name := "reach " + u
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			found = append(found, fail(name, err.Error(), "give a valid URL"))
			continue
		}
		res, err := m.client.Do(req)
		if err != nil {
			found = append(found, warn(name, err.Error(), "check DNS, proxy and firewall of this machine; behind a proxy that opens TLS give its certificate with --extra-ca"))
			continue
		}
		_ = res.Body.Close()
		// A registry asks who we are before anything else: that is an answer.
		if res.StatusCode >= 400 && res.StatusCode != http.StatusUnauthorized {
			found = append(found, warn(name, res.Status, "use another mirror or registry"))
			continue
		}
		found = append(found, ok(name, res.Status))
	}
	return found
}
