// Package environment owns the environment variables of a sandbox: where each
// comes from, which one wins, and what a client's replacement of "all" of them
// means. It must not know who runs with them.
package environment

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Limits. A longer variable, or more of them together, would let no program
// start any more: the kernel refuses at 128 KiB for one and 2 MiB for all, with
// the arguments.
const (
	maxVariable = 128<<10 - 1 // name, '=' and value, in bytes
	maxTotal    = 1 << 20
)

// DefaultPath is the PATH of a sandbox whose template names none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Layers is the environment of a sandbox, lowest layer first:
//
//	floor     the agent's own, then the template's
//	creation  the owner's at create
//	global    set through the API
//
// What a single execution brings stands above all. Methods may be called from
// any goroutine.
type Layers struct {
	mu       sync.RWMutex
	base     map[string]string // the agent's: always there
	template map[string]string
	creation map[string]string
	set      Saved             // through the API
	merged   map[string]string // all of it
	total    int               // bytes of merged
}

// New returns layers with nothing but base.
func New(base map[string]string) *Layers {
	l := &Layers{}
	l.Reset(base, nil, nil)
	return l
}

// Check refuses a variable that no process can be given.
func Check(name, value string) error {
	switch {
	case name == "":
		return errors.New("an environment variable needs a name")
	case strings.ContainsAny(name, "=\x00"):
		return fmt.Errorf("environment variable %q: a name cannot hold '=' or a NUL byte", name)
	case strings.Contains(value, "\x00"):
		return fmt.Errorf("environment variable %q: the value holds a NUL byte", name)
	case len(name)+1+len(value) > maxVariable:
		return fmt.Errorf("environment variable %q is longer than 128 KiB", name)
	}
	return nil
}

// CheckAll refuses a set with a variable that [Check] refuses, or that is too
// large as a whole. Values may be nil.
func CheckAll(vars map[string]*string) error {
	total := 0
	for k, p := range vars {
		v := ""
		if p != nil {
			v = *p
		}
		if err := Check(k, v); err != nil {
			return err
		}
		total += len(k) + len(v) + 2
	}
	if total > maxTotal {
		return errors.New("the environment is larger than 1 MiB")
	}
	return nil
}

// Reset gives the sandbox new lower layers, as an identity brings them. What
// was set through the API stays.
func (l *Layers) Reset(base, template, creation map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base, l.template, l.creation = maps.Clone(base), maps.Clone(template), maps.Clone(creation)
	l.mergeLocked()
}

// All returns the environment of an execution that brings nothing of its own.
func (l *Layers) All() map[string]string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return maps.Clone(l.merged)
}

// For returns the environment of an execution that brings own, in the form the
// kernel wants it, sorted by name. A nil value is one the execution must not
// see.
func (l *Layers) For(own map[string]*string) []string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	env := make([]string, 0, len(l.merged)+len(own))
	for k, v := range l.merged {
		if _, ok := own[k]; !ok {
			env = append(env, k+"="+v)
		}
	}
	for k, v := range own {
		if v != nil {
			env = append(env, k+"="+*v)
		}
	}
	slices.Sort(env)
	return env
}

// Saved is what was set through the API, in a form for an agent that takes over.
type Saved struct {
	Global     map[string]string `json:"global"`
	Hidden     map[string]bool   `json:"hidden"`      // variables of the template and of the creation that were removed
	NoCreation bool              `json:"no_creation"` // all of the creation were
}

// Replace makes vars all there is above the floor.
//
// A client that removes one variable reads all, drops it and writes the rest
// back. So a set that repeats the agent's whole base is such a rest, and what
// the template set and the rest lacks is gone as well.
func (l *Layers) Replace(vars map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := len(l.base) > 0
	for k := range l.base {
		if v, ok := vars[k]; !ok || v != l.merged[k] {
			rest = false
		}
	}
	hidden := maps.Clone(l.set.Hidden)
	if rest {
		hidden = map[string]bool{}
		for k := range l.template {
			hidden[k] = true
		}
	}
	for k := range vars {
		delete(hidden, k)
	}
	return l.applyLocked(Saved{maps.Clone(vars), hidden, true})
}

// Merge sets variables and removes those that are nil.
func (l *Layers) Merge(vars map[string]*string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Saved{maps.Clone(l.set.Global), maps.Clone(l.set.Hidden), l.set.NoCreation}
	if s.Global == nil {
		s.Global = map[string]string{}
	}
	if s.Hidden == nil {
		s.Hidden = map[string]bool{}
	}
	for k, v := range vars {
		if v == nil {
			delete(s.Global, k)
			s.Hidden[k] = true
			continue
		}
		s.Global[k] = *v
		delete(s.Hidden, k)
	}
	return l.applyLocked(s)
}

// Clear removes everything an owner set, at create or later.
func (l *Layers) Clear() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applyLocked(Saved{NoCreation: true})
}

// Save returns what was set through the API.
func (l *Layers) Save() Saved {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return Saved{maps.Clone(l.set.Global), maps.Clone(l.set.Hidden), l.set.NoCreation}
}

// Restore sets what an earlier agent saved.
func (l *Layers) Restore(s Saved) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applyLocked(Saved{maps.Clone(s.Global), maps.Clone(s.Hidden), s.NoCreation})
}

// applyLocked takes over s, unless a variable is no good or the whole becomes
// too large.
func (l *Layers) applyLocked(s Saved) error {
	for k, v := range s.Global {
		if err := Check(k, v); err != nil {
			return err
		}
	}
	old := l.set
	l.set = s
	if l.mergeLocked(); l.total > maxTotal {
		l.set = old
		l.mergeLocked()
		return errors.New("the environment would be larger than 1 MiB")
	}
	return nil
}

func (l *Layers) mergeLocked() {
	m := maps.Clone(l.base) // cannot be removed
	if m == nil {
		m = map[string]string{}
	}
	lower := []map[string]string{l.template, l.creation}
	if l.set.NoCreation {
		lower = lower[:1]
	}
	for _, layer := range lower {
		for k, v := range layer {
			if !l.set.Hidden[k] {
				m[k] = v
			}
		}
	}
	maps.Copy(m, l.set.Global)
	l.merged, l.total = m, 0
	for k, v := range m {
		l.total += len(k) + len(v) + 2
	}
}
