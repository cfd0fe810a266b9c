package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A report is everything one run found.
type report struct {
	Machine host      `json:"machine"`
	Began   string    `json:"began"`
	Series  []*series `json:"series"`
	Modes   []*mode   `json:"computesdk,omitempty"`
	Notes   []string  `json:"notes,omitempty"` // what was left out, and why
	Failed  []error   `json:"-"`
}

// A host says where the figures come from: without it they mean nothing.
type host struct {
	Cores  int     `json:"cores"`
	CPU    string  `json:"cpu"`
	MemGiB float64 `json:"mem_gib"`
	Kernel string  `json:"kernel"`
	Cgroup string  `json:"cgroup"`
	Load   string  `json:"load"` // averages before the run
	Commit string  `json:"commit"`
	Runsc  string  `json:"runsc"`
	Runc   string  `json:"runc"`
	Node   string  `json:"node"`
}

func describe(ctx context.Context, data string) host {
	h := host{Cores: runtime.NumCPU(), Cgroup: "v2"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.MemGiB = float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		h.Cgroup = "v1"
	}
	h.CPU = cpuModel()
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		h.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	h.Commit = output(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*")
	if runsc, err := one(filepath.Join(data, "bin", "runsc-*")); err == nil {
		h.Runsc = gvisorVersion(runsc)
	}
	h.Runc = output(ctx, "runc", "--version")
	h.Node = output(ctx, "node", "--version")
	return h
}

// gvisorVersion is the version of the module that a runsc was built from.
func gvisorVersion(program string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "gvisor.dev/gvisor" {
			return m.Version
		}
	}
	return ""
}

// output is the first line of what a program prints, "" if it cannot be run.
func output(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(first)
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// one is the one path that matches a pattern.
func one(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("there is no %s", pattern)
	}
	return found[len(found)-1], nil
}

func (r *report) print(w io.Writer) {
	h := r.Machine
	fmt.Fprintf(w, "machine: %d cores (%s), %.0f GiB, Linux %s, cgroup %s, load %s\n", h.Cores, h.CPU, h.MemGiB, h.Kernel, h.Cgroup, h.Load)
	fmt.Fprintf(w, "commit:  %s, %s\n", h.Commit, r.Began)
	fmt.Fprintf(w, "runtime: gVisor %s; %s; node %s\n", h.Runsc, h.Runc, h.Node)
	for _, s := range r.Series {
		s.print(w)
	}
	if len(r.Modes) > 0 {
		fmt.Fprintf(w, "\nComputeSDK's benchmark: create, probe, node -v, through computesdk and @computesdk/hopx\n")
		fmt.Fprintf(w, "  %-11s %-9s %9s %9s %9s %9s %9s %9s %7s\n", "", "ok", "median", "p95", "p99", "min", "max", "wall", "score")
		for _, m := range r.Modes {
			m.print(w)
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "%s\n", note)
	}
}

// compared are the series in which the floors take part.
var compared = []string{"create", "first-exec", "exec", "kill-idle", "kill-bomb", "kill-spinner",
	"file-1MB-up", "file-1MB-down", "file-100MB-up", "file-100MB-down", "sdk-exec"}

// floors sets up what the product is compared with. down takes it away again
// and is never nil.
func (b *bench) floors(ctx context.Context, data string) (down func() error, notes []string, err error) {
	var closers []func() error
	down = func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	if b.opts.noGVisor && b.opts.noRunc || !slices.ContainsFunc(compared, b.opts.wants) {
		return down, nil, nil
	}
	if data == "" || os.Geteuid() != 0 {
		return down, []string{"SKIP bare gVisor, runc: they need root and the server's -data"}, nil
	}
	runsc, err := one(filepath.Join(data, "bin", "runsc-*"))
	if err != nil {
		return down, nil, err
	}
	program, err := one(filepath.Join(data, "bin", "agent-*", "hutch-agent"))
	if err != nil {
		return down, nil, err
	}
	image, err := b.image(data)
	if err != nil {
		return down, nil, err
	}
	dir, err := os.MkdirTemp("/run", "hutch-bench-") // short: runsc puts a socket below it
	if err != nil {
		return down, nil, err
	}
	closers = append(closers, func() error { return os.RemoveAll(dir) })
	if !b.opts.noGVisor {
		f, err := newGVisor(runsc, image, filepath.Dir(program), dir)
		if err != nil {
			return down, nil, err
		}
		closers = append(closers, f.close)
		b.systems[gvisor] = f
	}
	if !b.opts.noRunc {
		f, err := newRunc(image, filepath.Dir(program), dir)
		if err != nil {
			return down, append(notes, "SKIP runc: "+err.Error()), nil //nolint:nilerr // the note says it: a machine without runc has one floor less
		}
		closers = append(closers, f.close, func() error { return unmountImage(dir) })
		b.systems[runc] = f
		if why := works(ctx, f); why != nil {
			delete(b.systems, runc)
			notes = append(notes, "SKIP runc: "+why.Error())
		}
	}
	return down, notes, nil
}

// works tries a floor once.
func works(ctx context.Context, f *floor) error {
	c, _, err := f.make(ctx)
	if err != nil {
		return err
	}
	_, err = run(ctx, c.sandbox(), "true")
	_, ended := end(ctx, c)
	return errors.Join(err, ended)
}

// A template is what a floor needs to know of one.
type template struct {
	file    string // the root filesystem, EROFS
	Name    string
	Created time.Time
	Default struct {
		VCPU     int `json:"vcpu"`
		MemoryMB int `json:"memory_mb"`
		DiskMB   int `json:"disk_mb"`
	}
}

// image finds the template that sandboxes are made from. The manifests beside
// the images say which is whose; of two with one name the later counts.
func (b *bench) image(data string) (template, error) {
	var found template
	manifests, err := filepath.Glob(filepath.Join(data, "images", "*.json"))
	if err != nil {
		return found, err
	}
	for _, m := range manifests {
		text, err := os.ReadFile(m)
		if err != nil {
			return found, err
		}
		var t template
		if err := json.Unmarshal(text, &t); err != nil {
			return found, fmt.Errorf("%s: %w", m, err)
		}
		if t.Name == b.opts.template && !t.Created.Before(found.Created) {
			found = t
			found.file = strings.TrimSuffix(m, ".json") + ".erofs"
		}
	}
	if found.file == "" {
		return found, fmt.Errorf("no image of template %s in %s", b.opts.template, data)
	}
	return found, nil
}
