package cli

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Serve is what an operator may decide about a server. The flags of
// `hutch serve` are its documentation.
type Serve struct {
	Listen    string // address and port
	Data      string // directory
	PublicURL string // where clients reach the server; "": http:// and Listen
	Region    string // the name of this place, shown to clients

	Domain  string // sandboxes get names below it; "": they are reached through PublicURL only
	TLSCert string // file with the certificate of PublicURL and *.Domain; "": no TLS here
	TLSKey  string // file with its key

	AllowHosts      []string         // Host headers that are answered; none: all
	AllowCIDR       []netip.Prefix   // private IPv4 networks that sandboxes may reach
	Subnet          netip.Prefix     // where sandboxes' addresses come from; zero: the server picks one that is free
	DNS             []netip.AddrPort // name servers of sandboxes; none: the host's
	ExtraCA         string           // file with PEM certificates that sandboxes trust too; "": none
	PrivatePreviews bool

	MaxSandboxes      int // 0: as many as the memory suggests
	MaxTimeout        time.Duration
	DeleteGrace       time.Duration
	CreatesPerMinute  int
	RequestsPerMinute int

	KillOnExit  bool
	LogFormat   string // "auto", "text" or "json"
	DebugListen string // loopback address that serves net/http/pprof; "": none
	LogLevel    string // "debug", "info", "warn" or "error"

	// APIKey is HUTCH_API_KEY of the environment: a key to install for the
	// default organization. It has no flag, because other users of a machine
	// can read command lines.
	APIKey string
}

func newServe(d Deps) *cobra.Command {
	var cfg Serve
	var allow, dns []string
	var subnet string
	c := &cobra.Command{
		Use: "serve", GroupID: "server",
		Short: "Run the server",
		Long: `Run the server: the API, the gateway to sandboxes, and the sandboxes
themselves, behind one address.

Ctrl-C or SIGTERM ends the server and leaves sandboxes running; the next
start takes them over. Use --kill-on-exit, or "hutch kill --all", to end them.

HUTCH_API_KEY in the environment installs that key, which must look like
hopx_live_<12 letters or digits>.<43 of base64url>.`,
		Example: `# On this machine only
hutch serve

# Reachable by others: TLS and a name for every port of every sandbox
hutch serve --listen :443 --domain sandboxes.example.com \
  --public-url https://sandboxes.example.com \
  --tls-cert wildcard.pem --tls-key wildcard.key

# Sandboxes may reach one private network of yours
hutch serve --allow-cidr 10.20.0.0/16`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.Serve == nil {
				return absent("the server")
			}
			cfg.APIKey = os.Getenv("HUTCH_API_KEY")
			if err := cfg.addresses(allow, subnet, dns); err != nil {
				return err
			}
			if err := cfg.check(); err != nil {
				return err
			}
			return d.Serve(cmd.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:8080", "address and port to listen on")
	dataFlag(c, &cfg.Data)
	f.StringVar(&cfg.PublicURL, "public-url", "", "where clients reach the server (default: http:// and --listen)")
	f.StringVar(&cfg.Region, "region", "local", "name of this place, shown to clients")
	f.StringVar(&cfg.Domain, "domain", "", "give every port of every sandbox a name below this domain")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "file with the certificate for --public-url and *.DOMAIN")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "file with the key of --tls-cert")
	f.StringSliceVar(&cfg.AllowHosts, "allow-host", nil, "answer only to these host names; repeat or separate by commas")
	f.StringSliceVar(&allow, "allow-cidr", nil, "private network that sandboxes may reach; repeat or separate by commas")
	f.StringVar(&subnet, "subnet", "", "network that sandboxes' addresses come from (default: one that is free)")
	f.StringSliceVar(&dns, "dns", nil, "name server for sandboxes (default: those of this machine); repeat or separate by commas")
	f.StringVar(&cfg.ExtraCA, "extra-ca", "", "file with certificates that sandboxes trust beside their own")
	f.BoolVar(&cfg.PrivatePreviews, "private-previews", false, "ports of sandboxes need the sandbox's token unless a create says otherwise")
	f.IntVar(&cfg.MaxSandboxes, "max-sandboxes", 0, "how many sandboxes may live at once; 0: one for each 96 MiB of memory")
	f.DurationVar(&cfg.MaxTimeout, "max-timeout", 0, "longest life a sandbox may have; 0: no limit")
	f.DurationVar(&cfg.DeleteGrace, "delete-grace", 2*time.Second, "how long processes may take to end on delete; kill never waits")
	f.IntVar(&cfg.CreatesPerMinute, "creates-per-minute", 600, "sandboxes one key may make in a minute")
	f.IntVar(&cfg.RequestsPerMinute, "requests-per-minute", 6000, "other requests one key may make in a minute")
	f.BoolVar(&cfg.KillOnExit, "kill-on-exit", false, "end all sandboxes when the server ends")
	f.StringVar(&cfg.LogFormat, "log-format", "auto", "auto, text or json; auto is text on a terminal")
	f.StringVar(&cfg.DebugListen, "debug-listen", "", "loopback address for profiles of the server, at /debug/pprof/ (default: none)")
	f.StringVar(&cfg.LogLevel, "log-level", "info", "debug, info, warn or error")
	alsoFromEnv(c, "listen", "public-url", "region", "domain", "tls-cert", "tls-key", "allow-host", "allow-cidr", "subnet", "dns",
		"extra-ca", "private-previews", "max-sandboxes", "max-timeout", "delete-grace", "creates-per-minute",
		"requests-per-minute", "kill-on-exit", "debug-listen", "log-format", "log-level")
	return c
}

// check finds what can be known to be wrong before anything is started.
func (c *Serve) check() error {
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		return usage("--listen is %q; it must be ADDRESS:PORT, such as 127.0.0.1:8080", c.Listen)
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return usage("--public-url is %q; it must be like https://sandboxes.example.com", c.PublicURL)
		}
	}
	if c.Domain != "" && (strings.ContainsAny(c.Domain, "/:*@ ") || !strings.Contains(c.Domain, ".") ||
		strings.HasPrefix(c.Domain, ".") || strings.HasSuffix(c.Domain, ".")) {
		return usage("--domain is %q; it must be a plain domain, such as sandboxes.example.com", c.Domain)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return usage("--tls-cert and --tls-key go together")
	}
	for name, n := range map[string]int{
		"max-sandboxes": c.MaxSandboxes, "creates-per-minute": c.CreatesPerMinute, "requests-per-minute": c.RequestsPerMinute,
	} {
		if n < 0 {
			return usage("--%s is %d; it must not be negative", name, n)
		}
	}
	if c.MaxTimeout < 0 || c.MaxTimeout%time.Second != 0 {
		return usage("--max-timeout is %v; it must be whole seconds", c.MaxTimeout)
	}
	if c.DeleteGrace < 0 || c.DeleteGrace > time.Minute {
		return usage("--delete-grace is %v; it must be between 0s and 1m", c.DeleteGrace)
	}
	if c.DebugListen != "" {
		if a, err := netip.ParseAddrPort(c.DebugListen); err != nil || !a.Addr().IsLoopback() {
			return usage("--debug-listen is %q; it must be a loopback address and a port, such as 127.0.0.1:6060", c.DebugListen)
		}
	}
	if !slices.Contains([]string{"auto", "text", "json"}, c.LogFormat) {
		return usage("--log-format is %q; it must be auto, text or json", c.LogFormat)
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return usage("--log-level is %q; it must be debug, info, warn or error", c.LogLevel)
	}
	return nil
}

// addresses reads the flags that are addresses.
func (c *Serve) addresses(allow []string, subnet string, dns []string) error {
	for _, s := range allow {
		p, err := prefix("allow-cidr", s)
		if err != nil {
			return err
		}
		c.AllowCIDR = append(c.AllowCIDR, p)
	}
	if subnet != "" {
		p, err := prefix("subnet", subnet)
		if err != nil {
			return err
		}
		if p.Bits() < 8 || p.Bits() > 30 {
			return usage("--subnet is %q; it must have 8 to 30 bits, such as 10.213.0.0/16", subnet)
		}
		c.Subnet = p
	}
	for _, s := range dns {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				return usage("--dns has %q; it must be like 192.0.2.53 or 192.0.2.53:5353", s)
			}
			a = netip.AddrPortFrom(ip, 53)
		}
		if !a.Addr().Is4() || a.Addr().IsLoopback() || a.Addr().IsUnspecified() || a.Port() == 0 {
			return usage("--dns has %q; it must be an IPv4 address that sandboxes can reach, not one of this machine's own loopback", s)
		}
		c.DNS = append(c.DNS, a)
	}
	return nil
}

// prefix reads a network of IPv4 addresses, or one address, for a flag.
func prefix(flag, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return p, usage("--%s has %q; it must be like 10.20.0.0/16", flag, s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if !p.Addr().Is4() {
		return p, usage("--%s has %q; sandboxes speak IPv4 only", flag, s)
	}
	if p.Masked() != p {
		return p, usage("--%s has %q; the network of that address is %s", flag, s, p.Masked())
	}
	return p, nil
}
