package image

import (
	"log/slog"
	"strings"
)

// Options say where templates are made from. The zero value is the public
// registries, and is safe.
type Options struct {
	// ExtraCA is a PEM file of certificate authorities to be trusted beside
	// the system's: by the builds, and by every template prepared with it.
	// Without it nothing of this machine's trust ends up in a template.
	ExtraCA string

	Mirror   string // Debian's archive; default http://deb.debian.org/debian (packages are signed)
	Security string // Debian's security archive; default http://deb.debian.org/debian-security
	Suite    string // Debian's release; default bookworm, the only one code-interpreter can be made of
	Keyring  string // keys the archive must be signed with; default the system's debian-archive-keyring

	PyPI    string // simple index; default https://pypi.org/simple
	NPM     string // registry; default https://registry.npmjs.org
	GoProxy string // module proxy; default https://proxy.golang.org

	// AllowPrivate lets Pull reach registries at private and loopback
	// addresses and use the proxy of the environment. Without it only public
	// addresses are dialled, whatever names resolve to and redirects say.
	AllowPrivate bool

	Limits Limits // of pulled images

	Log *slog.Logger // default: discard
}

func (o Options) withDefaults() Options {
	def := func(v *string, d string) {
		if *v = strings.TrimRight(*v, "/"); *v == "" {
			*v = d
		}
	}
	def(&o.Mirror, "http://deb.debian.org/debian")
	def(&o.Security, "http://deb.debian.org/debian-security")
	def(&o.Suite, defaultSuite)
	def(&o.Keyring, "/usr/share/keyrings/debian-archive-keyring.gpg")
	def(&o.PyPI, "https://pypi.org/simple")
	def(&o.NPM, "https://registry.npmjs.org")
	def(&o.GoProxy, "https://proxy.golang.org")
	o.Limits = o.Limits.withDefaults()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}
