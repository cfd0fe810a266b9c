package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tablePrefix begins the names of the tables of every installation.
const tablePrefix = "hutch_"

// smtpPort is closed to everybody but the allow-list: a sandbox that sends mail
// sends spam, and the operator's addresses pay for it.
const smtpPort = 25

// maxFlows is how many connections one guest may have at a time. The kernel's
// table of connections is the whole host's; a guest must not be able to fill it.
const maxFlows = 4096

// A ruleset describes the two tables: what must be in the kernel, not what is.
type ruleset struct {
	inet, arp *nftables.Table

	// What the operator and the host decide; replaced as a whole.
	subnet, allow, deny, lent *nftables.Set
	dns                       *nftables.Set // guest's name server -> upstream address and port
	upstream                  *nftables.Set // upstream address and port

	// What each guest adds to and takes from.
	guests   *nftables.Set // link . guest's address: every guest
	internet *nftables.Set // link: guests with internet
	flows    *nftables.Set // guest's address: its connections, counted by the kernel
	arps     *nftables.Set // link . guest's address . gateway's address: every guest

	chains []chain
}

type chain struct {
	*nftables.Chain
	rules []noted
}

// A noted rule carries its purpose, which nft shows as a comment.
type noted struct {
	note string
	words
}

// newRuleset describes the tables of an installation whose links' names begin
// with link.
func newRuleset(name, link string) *ruleset {
	r := &ruleset{
		inet: &nftables.Table{Name: name, Family: nftables.TableFamilyINet},
		arp:  &nftables.Table{Name: name, Family: nftables.TableFamilyARP},
	}
	endpoint := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	r.subnet = &nftables.Set{Table: r.inet, Name: "subnet", KeyType: nftables.TypeIPAddr, Interval: true}
	r.allow = &nftables.Set{Table: r.inet, Name: "allow", KeyType: nftables.TypeIPAddr, Interval: true}
	r.deny = &nftables.Set{Table: r.inet, Name: "deny", KeyType: nftables.TypeIPAddr, Interval: true}
	r.lent = &nftables.Set{Table: r.inet, Name: "lent", KeyType: nftables.TypeIFName}
	r.dns = &nftables.Set{Table: r.inet, Name: "dns", KeyType: nftables.TypeIPAddr, DataType: endpoint, IsMap: true}
	r.upstream = &nftables.Set{Table: r.inet, Name: "upstream", KeyType: endpoint, Concatenation: true}
	r.guests = &nftables.Set{Table: r.inet, Name: "guests", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)}
	r.internet = &nftables.Set{Table: r.inet, Name: "internet", KeyType: nftables.TypeIFName}
	r.flows = &nftables.Set{Table: r.inet, Name: "flows", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: 65535}
	r.arps = &nftables.Set{Table: r.arp, Name: "guests", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeIPAddr)}

	accepting := nftables.ChainPolicyAccept
	base := func(t *nftables.Table, name string, kind nftables.ChainType, hook uint32, prio int32) *nftables.Chain {
		return &nftables.Chain{Table: t, Name: name, Type: kind, Policy: &accepting,
			Hooknum: nftables.ChainHookRef(nftables.ChainHook(hook)), Priority: nftables.ChainPriorityRef(nftables.ChainPriority(prio))}
	}
	plain := func(t *nftables.Table, name string) *nftables.Chain { return &nftables.Chain{Table: t, Name: name} }

	// Chains that are jumped to stand before those that jump. The filters come
	// before other people's (priority 0): what we drop they need not see.
	r.chains = []chain{
		{plain(r.inet, "from_guest"), []noted{
			{"nothing but IPv4", rule(notIPv4, drop)},
			{"no IP options", rule(withOptions, drop)},
			{"only the guest's own address", rule(srcNotOfLink(r.guests), drop)},
		}},
		{base(r.inet, "first", nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, -300), []noted{
			{"guests", rule(from(link), jump("from_guest"))},
			{"guests were looked at", rule(from(link), pass)},
			{"the host itself", rule(fromExactly("lo"), pass)},
			{"nobody else speaks to guests", rule(ipv4, dstIn(r.subnet), drop)},
			{"nobody else is a guest", rule(ipv4, srcIn(r.subnet), drop)},
		}},
		{base(r.inet, "resolve", nftables.ChainTypeNAT, unix.NF_INET_PRE_ROUTING, -100), []noted{
			{"names over UDP", rule(fromIn(r.internet), ipv4, udp, toPort(53), rewriteDst(r.dns))},
			{"names over TCP", rule(fromIn(r.internet), ipv4, tcp, toPort(53), rewriteDst(r.dns))},
		}},
		{base(r.inet, "input", nftables.ChainTypeFilter, unix.NF_INET_LOCAL_IN, -10), []noted{
			{"not a guest", rule(notFrom(link), pass)},
			{"replies to the host", rule(tcp, established, reply, accept)},
			{"names, if the upstream is this host", rule(fromIn(r.internet), rewrittenDNS, udp, dstPortIn(r.upstream), accept)},
			{"names, if the upstream is this host", rule(fromIn(r.internet), rewrittenDNS, tcp, dstPortIn(r.upstream), accept)},
			{"the host is not there for guests", drop},
		}},
		{plain(r.inet, "out"), []noted{
			{"no other guest", rule(to(anyLink), tcp, reset)},
			{"no other guest", rule(to(anyLink), refuse)},
			{"no internet", rule(fromNotIn(r.internet), tcp, reset)},
			{"no internet", rule(fromNotIn(r.internet), refuse)},
			{"not part of anything", rule(invalid, drop)},
			{"too many connections", rule(opening, moreFlowsThan(maxFlows, r.flows), drop)},
			{"names", rule(rewrittenDNS, udp, dstPortIn(r.upstream), accept)},
			{"names", rule(rewrittenDNS, tcp, dstPortIn(r.upstream), accept)},
			{"the operator allows it", rule(dstIn(r.allow), accept)},
			{"private or reserved", rule(dstIn(r.deny), tcp, reset)},
			{"private or reserved", rule(dstIn(r.deny), refuse)},
			{"mail", rule(tcp, toPort(smtpPort), reset)},
			{"TCP", rule(tcp, accept)},
			{"UDP", rule(udp, accept)},
			{"ping", rule(ping, accept)},
			{"any other protocol", refuse},
		}},
		{plain(r.inet, "in"), []noted{
			{"replies to guests with internet", rule(toIn(r.internet), established, reply, accept)},
			{"errors about what they sent", rule(toIn(r.internet), related, icmp, accept)},
			{"guests cannot be called", drop},
		}},
		{base(r.inet, "forward", nftables.ChainTypeFilter, unix.NF_INET_FORWARD, -10), []noted{
			{"from guests", rule(from(link), jump("out"))},
			{"to guests", rule(to(link), jump("in"))},
			{"this interface forwards only for guests", rule(ipv4, fromIn(r.lent), notTo(anyLink), drop)},
		}},
		{base(r.inet, "leave", nftables.ChainTypeNAT, unix.NF_INET_POST_ROUTING, 100), []noted{
			{"guests share the host's address", rule(ipv4, srcIn(r.subnet), notTo(link), masquerade)},
		}},
		// NF_ARP_IN, which has the number 0.
		{base(r.arp, "input", nftables.ChainTypeFilter, 0, 0), []noted{
			{"not a guest", rule(notFrom(link), pass)},
			{"a guest and its gateway", rule(arpOfLink(r.arps), accept)},
			{"no other ARP of guests", drop},
		}},
	}
	return r
}

func (r *ruleset) sets() []*nftables.Set {
	return []*nftables.Set{r.subnet, r.allow, r.deny, r.lent, r.dns, r.upstream, r.guests, r.internet, r.flows, r.arps}
}

// digest tells rulesets of different versions of this program apart.
func (r *ruleset) digest() (string, error) {
	h := sha256.New()
	for _, c := range r.chains {
		fmt.Fprintf(h, "chain %d %s\n", c.Table.Family, c.Name)
		for _, rule := range c.rules {
			fmt.Fprintf(h, "rule %s\n", rule.note)
			for _, e := range rule.words {
				b, err := expr.Marshal(byte(c.Table.Family), e)
				if err != nil {
					return "", fmt.Errorf("chain %s: %w", c.Name, err)
				}
				fmt.Fprintf(h, "%d:", len(b))
				h.Write(b)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:8], nil
}
