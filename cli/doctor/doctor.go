// Package doctor looks at a Linux machine and says whether it is fit to run
// sandboxes, what is dangerous about it, and how each thing is mended. It only
// reads, and changes nothing.
//
// It knows files of /proc and /sys and what they mean. It must not know how
// sandboxes are made.
package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
)

// A Level says how bad a finding is.
type Level string

// Levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // sandboxes work; something is missing, weaker or slower than it could be
	Fail Level = "fail" // sandboxes do not work, or do not hold
	Skip Level = "skip" // could not be looked at
)

// A Finding is the result of one check.
type Finding struct {
	Name  string `json:"name"`
	Level Level  `json:"level"`
	Found string `json:"found"`          // what is there
	Mend  string `json:"mend,omitempty"` // how to mend it; with Warn and Fail
}

// A Report is what was found, in the order it was looked at.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Worst returns the worst level in the report: Fail, Warn or OK.
func (r Report) Worst() Level {
	worst := OK
	for _, f := range r.Findings {
		switch f.Level {
		case Fail:
			return Fail
		case Warn:
			worst = Warn
		}
	}
	return worst
}

// Options say what to look at.
type Options struct {
	Data      string   // the data directory, for the space it has; need not exist
	Listen    string   // the server's own address, which is no foreign listener
	Sandboxes int      // how many sandboxes are planned at once
	Tasks     int      // how many processes and threads of the host one sandbox may take at its worst
	Links     string   // prefix of the names of sandboxes' network links; "": they are not looked at
	Fetch     []string // URLs that must be reachable; none: the network is not touched

	// Nftables makes rules like those of a sandbox where nothing else sees them.
	// nil: only whether the kernel knows nftables is asked.
	Nftables func(ctx context.Context) error
}

// ErrNotLinux says that there is nothing to look at on this system.
var ErrNotLinux = errors.New("only Linux runs sandboxes, so only Linux is checked")

// A machine is what the checks look at. Tests give them one made of fixtures.
type machine struct {
	files    fs.FS // the root directory
	release  string
	arch     string
	euid     int
	capable  uint64                            // effective capabilities, one bit each
	space    func(path string) (uint64, error) // bytes an unprivileged write may still take
	program  func(name string) (string, error) // finds it in PATH
	nftables func(ctx context.Context) error
	client   *http.Client
}

// checks is every check, in the order of the report.
var checks = []func(context.Context, machine, Options) []Finding{
	one(privileges),
	one(kernel),
	one(architecture),
	one(seccomp),
	one(namespaces),
	one(cgroups),
	one(processes),
	one(mappings),
	one(nftables),
	one(forwarding),
	one(linksIPv6),
	one(otherFirewall),
	listeners,
	oldRuntime,
	one(cuse),
	one(threads),
	one(samePage),
	one(swap),
	one(disk),
	one(bootstrap),
	one(authorities),
	reach,
}

func one(check func(context.Context, machine, Options) Finding) func(context.Context, machine, Options) []Finding {
	return func(ctx context.Context, m machine, o Options) []Finding {
		return []Finding{check(ctx, m, o)}
	}
}

// examine runs every check on m.
func examine(ctx context.Context, m machine, o Options) Report {
	var r Report
	for _, check := range checks {
		r.Findings = append(r.Findings, check(ctx, m, o)...)
	}
	return r
}

func ok(name, found string) Finding         { return Finding{Name: name, Level: OK, Found: found} }
func warn(name, found, mend string) Finding { return Finding{name, Warn, found, mend} }
func fail(name, found, mend string) Finding { return Finding{name, Fail, found, mend} }
func skip(name, found string) Finding       { return Finding{Name: name, Level: Skip, Found: found} }
