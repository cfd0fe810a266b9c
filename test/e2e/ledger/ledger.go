// Package ledger counts everything that one installation of Hutch holds on
// this machine, so that a test can say "nothing is left" and mean it. It reads
// the kernel's own books (/proc, the cgroup trees, netlink, nft) and knows the
// program under test only by the names it gives to things; it must not import
// it. What it cannot count on a machine it says, with the reason.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Class is one kind of thing that can be left behind.
type Class string

// Classes.
const (
	Processes  Class = "processes"  // in our cgroups, of our files, or below the server
	Cgroups    Class = "cgroups"    // in every hierarchy
	Namespaces Class = "namespaces" // network namespaces, named or held by a process
	Links      Class = "links"      // network devices on the host's side
	Addresses  Class = "addresses"  // of those devices, and routes to its networks
	Rules      Class = "rules"      // nftables: tables, chains, sets, elements, rules
	Mounts     Class = "mounts"     // as this process and the server see them
	Files      Class = "files"      // in the data, runtime and temporary directories
	Sockets    Class = "sockets"    // that listen, and Unix sockets with a name of ours
	FDs        Class = "fds"        // of the server, by kind
	Goroutines Class = "goroutines" // of the server
	Rows       Class = "rows"       // sandboxes that the API lists
)

// Classes lists every class, in the order reports show them.
var Classes = []Class{Processes, Cgroups, Namespaces, Links, Addresses, Rules, Mounts, Files, Sockets, FDs, Goroutines, Rows}

// Instant are the classes that must be back where they were at the very moment
// a kill is answered. The others may take a moment: they belong to the server's
// own housekeeping.
var Instant = []Class{Processes, Cgroups, Namespaces, Links, Addresses, Rules, Mounts, Rows}

// A Scope says what belongs to one installation.
type Scope struct {
	Marks   []string                                // every name of a kernel object or path of it contains one of these
	Links   []string                                // prefixes of its network devices
	Nets    []netip.Prefix                          // its addresses: routes to them are its
	Dirs    []string                                // directories whose whole content is its
	Server  int                                     // process id of the server; 0 while none runs
	Debug   string                                  // URL of net/http/pprof's goroutine profile, if there is one
	ListAll func(context.Context) ([]string, error) // ids the API lists; nil: not counted
}

// A Snapshot is what was there at one moment.
type Snapshot struct {
	At      time.Time
	Items   map[Class]map[string]int // what and how many of it
	Skipped map[Class]string         // classes that could not be counted, and why
	Usage   Usage
}

// Usage is what the server itself uses.
type Usage struct {
	RSS     int64 // bytes
	FDs     int
	Threads int
}

// Take counts everything now. It fails only when a book that must be readable
// is not: a ledger that cannot see must not say that all is well.
func (s Scope) Take(ctx context.Context) (Snapshot, error) {
	snap := Snapshot{At: time.Now(), Items: map[Class]map[string]int{}, Skipped: map[Class]string{}}
	procs, err := s.processes()
	if err != nil {
		return snap, fmt.Errorf("processes: %w", err)
	}
	for _, p := range procs {
		snap.add(Processes, p.String())
	}
	counters := []struct {
		class Class
		count func(context.Context, func(string)) error
	}{
		{Cgroups, s.cgroups},
		{Namespaces, func(_ context.Context, add func(string)) error { return s.namespaces(procs, add) }},
		{Links, s.links},
		{Addresses, s.addresses},
		{Rules, s.rules},
		{Mounts, s.mounts},
		{Files, s.files},
		{Sockets, s.sockets},
		{FDs, s.fds},
		{Goroutines, s.goroutines},
		{Rows, s.rows},
	}
	for _, c := range counters {
		err := c.count(ctx, func(what string) { snap.add(c.class, what) })
		var skip skipped
		if errors.As(err, &skip) {
			snap.Skipped[c.class] = string(skip)
		} else if err != nil {
			return snap, fmt.Errorf("%s: %w", c.class, err)
		}
	}
	if s.Server != 0 {
		if snap.Usage, err = usage(s.Server); err != nil {
			return snap, fmt.Errorf("usage of the server: %w", err)
		}
	}
	return snap, nil
}

// skipped is the reason why a class cannot be counted on this machine.
type skipped string

func (s skipped) Error() string { return string(s) }

func (s *Snapshot) add(c Class, what string) {
	if s.Items[c] == nil {
		s.Items[c] = map[string]int{}
	}
	s.Items[c][what]++
}

// Count returns how many things of a class there are.
func (s Snapshot) Count(c Class) int {
	n := 0
	for _, k := range s.Items[c] {
		n += k
	}
	return n
}

// String is one line: every class and its count.
func (s Snapshot) String() string {
	var b strings.Builder
	for _, c := range Classes {
		if why, ok := s.Skipped[c]; ok {
			fmt.Fprintf(&b, "%s not counted (%s) ", c, why)
			continue
		}
		fmt.Fprintf(&b, "%s %d ", c, s.Count(c))
	}
	fmt.Fprintf(&b, "rss %.1f MiB", float64(s.Usage.RSS)/(1<<20))
	return b.String()
}

// A Change is one thing of which a later snapshot has more than an earlier.
type Change struct {
	Class Class
	What  string
	More  int
}

// String says the entry as a log line.
func (c Change) String() string { return fmt.Sprintf("%s: %s (+%d)", c.Class, c.What, c.More) }

// Left returns what now has more of than s in the given classes, all of them
// if none is given: what was left behind.
func (s Snapshot) Left(now Snapshot, classes ...Class) []Change {
	if len(classes) == 0 {
		classes = Classes
	}
	var left []Change
	for _, c := range classes {
		for _, what := range slices.Sorted(maps.Keys(now.Items[c])) {
			if more := now.Items[c][what] - s.Items[c][what]; more > 0 {
				left = append(left, Change{c, what, more})
			}
		}
	}
	return left
}

// Mentions returns the things of s whose name contains any of the marks: what
// is there of one sandbox, whatever the rest does.
func (s Snapshot) Mentions(marks ...string) []Change {
	var found []Change
	for _, c := range Classes {
		for _, what := range slices.Sorted(maps.Keys(s.Items[c])) {
			if containsAny(what, marks) {
				found = append(found, Change{c, what, s.Items[c][what]})
			}
		}
	}
	return found
}

// Settle counts until nothing is left beyond base in the given classes, or ctx
// ends. It returns what was left at the last count, which is nothing on success.
func (s Scope) Settle(ctx context.Context, base Snapshot, classes ...Class) ([]Change, error) {
	for {
		now, err := s.Take(context.WithoutCancel(ctx)) // a count is not cut short
		if err != nil {
			return nil, err
		}
		left := base.Left(now, classes...)
		if len(left) == 0 {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return left, nil
		case <-time.After(50 * time.Millisecond): // nothing announces a leak's end
		}
	}
}

func containsAny(s string, marks []string) bool {
	return slices.ContainsFunc(marks, func(m string) bool { return m != "" && strings.Contains(s, m) })
}

func (s Scope) marked(what string) bool { return containsAny(what, s.Marks) }
