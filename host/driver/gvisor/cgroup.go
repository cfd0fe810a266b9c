package gvisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
	"golang.org/x/sys/unix"
)

// overheadMB is what the sentry and its file server need beside the memory a
// sandbox was promised (measured: 14 MiB idle, more with many open files).
const overheadMB = 64

// period is the CPU quota period in microseconds, the kernel's default.
const period = 100_000

// limits are what a group may use.
type limits struct {
	memory int64 // bytes
	cpu    int64 // microseconds of CPU time per period
	pids   int64 // host tasks
}

func limitsFor(r hutch.Resources, pids int) limits {
	return limits{
		memory: int64(r.MemoryMB+overheadMB) << 20,
		cpu:    int64(r.VCPU) * period,
		// Measured: N processes inside need up to 2.2 N host tasks, and the
		// sentry dies if it cannot have a thread.
		pids: int64(3*pids + 128),
	}
}

// A hierarchy is where an installation's groups live: below one parent, in
// every controller of cgroup v1 or in the one tree of v2.
type hierarchy struct {
	parent string            // the name of the parent group
	v2     bool              //
	mounts map[string]string // v1: controller -> mount point; v2: "" -> mount point
	home   map[string]string // v1: controller -> the group this process lives in
}

// openHierarchy finds the cgroups of this machine and makes the parent group.
func openHierarchy(parent string) (hierarchy, error) {
	h := hierarchy{parent: parent, mounts: map[string]string{}}
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return h, err
	}
	defer f.Close()
	unified := ""
	for s := bufio.NewScanner(f); s.Scan(); {
		field := strings.Fields(s.Text())
		if len(field) < 4 {
			continue
		}
		switch field[2] {
		case "cgroup2":
			unified = field[1]
		case "cgroup":
			for opt := range strings.SplitSeq(field[3], ",") {
				switch opt {
				case "cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma":
					h.mounts[opt] = field[1]
				case "name=systemd":
					h.mounts["systemd"] = field[1]
				}
			}
		}
	}
	if h.mounts["memory"] == "" || h.mounts["pids"] == "" || h.mounts["cpu"] == "" {
		if unified == "" {
			return h, errors.New("neither cgroup v2 nor the cpu, memory and pids controllers of v1 are mounted")
		}
		h.v2, h.mounts = true, map[string]string{"": unified}
	}
	if h.home, err = homeGroups(); err != nil {
		return h, err
	}
	return h, h.makeParent()
}

// homeGroups returns where this process lives, by v1 controller.
func homeGroups() (map[string]string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	home := map[string]string{}
	for line := range strings.Lines(string(data)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		for c := range strings.SplitSeq(part[1], ",") {
			home[strings.TrimPrefix(c, "name=")] = part[2]
		}
	}
	return home, nil
}

func (h hierarchy) makeParent() error {
	for controller, mount := range h.mounts {
		dir := filepath.Join(mount, h.parent)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		switch {
		case h.v2:
			for _, d := range []string{mount, dir} {
				if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0); err != nil {
					return fmt.Errorf("controllers cannot be delegated: %w", err)
				}
			}
		case controller == "memory":
			// Harmless where hierarchical accounting is the only kind.
			_ = os.WriteFile(filepath.Join(dir, "memory.use_hierarchy"), []byte("1"), 0)
		case controller == "cpuset":
			if err := copyCpuset(mount, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyCpuset gives a v1 cpuset group its parent's processors: it is born
// without any and takes no process until it has some.
func copyCpuset(from, to string) error {
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(from, f))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f), data, 0); err != nil {
			return err
		}
	}
	return nil
}

// close removes the parent group if it has no group left.
func (h hierarchy) close() error {
	var errs []error
	for _, mount := range h.mounts {
		err := unix.Rmdir(filepath.Join(mount, h.parent))
		if err != nil && err != unix.EBUSY && err != unix.ENOENT && err != unix.ENOTEMPTY {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// list returns the names of all groups below the parent, in any controller.
func (h hierarchy) list() ([]string, error) {
	seen := map[string]bool{}
	for _, mount := range h.mounts {
		entries, err := os.ReadDir(filepath.Join(mount, h.parent))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				seen[e.Name()] = true
			}
		}
	}
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	return names, nil
}

func (h hierarchy) group(name string) group { return group{h, name} }

// A group is the cgroup of one cell.
type group struct {
	h    hierarchy
	name string
}

// path is the group's place as a process sees it in /proc/PID/cgroup.
func (g group) path() string { return "/" + g.h.parent + "/" + g.name }

func (g group) dir(controller string) string {
	return filepath.Join(g.h.mounts[controller], g.h.parent, g.name)
}

// any is a controller through which membership can be read.
func (g group) any() string {
	if g.h.v2 {
		return ""
	}
	return "pids"
}

func (g group) exists() bool {
	for c := range g.h.mounts {
		if _, err := os.Lstat(g.dir(c)); err == nil {
			return true
		}
	}
	return false
}

// create makes the group with its limits. The caller removes it on error.
func (g group) create(l limits) error {
	for c, mount := range g.h.mounts {
		if err := os.Mkdir(g.dir(c), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if c == "cpuset" {
			if err := copyCpuset(filepath.Join(mount, g.h.parent), g.dir(c)); err != nil {
				return err
			}
		}
	}
	for _, s := range g.settings(l) {
		if err := os.WriteFile(s.file, []byte(s.value), 0); err != nil {
			if s.optional && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
	}
	return nil
}

type setting struct {
	file, value string
	optional    bool // the kernel may be built without it
}

func (g group) settings(l limits) []setting {
	mem, pids := strconv.FormatInt(l.memory, 10), strconv.FormatInt(l.pids, 10)
	quota, per := strconv.FormatInt(l.cpu, 10), strconv.FormatInt(period, 10)
	if g.h.v2 {
		d := g.dir("")
		return []setting{
			{file: d + "/memory.max", value: mem},
			{file: d + "/memory.swap.max", value: "0", optional: true},
			{file: d + "/cpu.max", value: quota + " " + per},
			{file: d + "/pids.max", value: pids},
		}
	}
	return []setting{
		{file: g.dir("memory") + "/memory.limit_in_bytes", value: mem},
		{file: g.dir("memory") + "/memory.memsw.limit_in_bytes", value: mem, optional: true},
		{file: g.dir("cpu") + "/cpu.cfs_period_us", value: per},
		{file: g.dir("cpu") + "/cpu.cfs_quota_us", value: quota},
		{file: g.dir("pids") + "/pids.max", value: pids},
	}
}

// verify reads the limits back, and that pid is bound by each of them. Limits
// that are set but not in force are worse than none.
func (g group) verify(l limits, pid int) error {
	for _, s := range g.settings(l) {
		got, err := os.ReadFile(s.file)
		if err != nil {
			if s.optional && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		if v := strings.TrimSpace(string(got)); v != s.value {
			return fmt.Errorf("%s is %q, wanted %q", s.file, v, s.value)
		}
	}
	where, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return err
	}
	need := map[string]bool{"memory": true, "cpu": true, "pids": true}
	if g.h.v2 {
		need = map[string]bool{"": true}
	}
	for line := range strings.Lines(string(where)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || !strings.HasSuffix(part[2], g.path()) {
			continue
		}
		for c := range strings.SplitSeq(part[1], ",") {
			delete(need, c)
		}
	}
	if len(need) > 0 {
		return fmt.Errorf("process %d is not in cgroup %s", pid, g.path())
	}
	return nil
}

// oom reports whether the kernel has killed anything here for want of memory.
func (g group) oom() bool {
	file, key := g.dir("memory")+"/memory.oom_control", "oom_kill "
	if g.h.v2 {
		file, key = g.dir("")+"/memory.events", "oom_kill "
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), key); ok {
			return n != "0"
		}
	}
	return false
}

// procs returns the processes in the group: none if the group is gone.
func (g group) procs() ([]int, error) {
	data, err := os.ReadFile(g.dir(g.any()) + "/cgroup.procs")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for f := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("cgroup.procs holds %q", f)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// kill ends every process in the group and returns when none is left. A group
// that a v1 freezer or v2 freeze holds is thawed first: frozen processes do not
// die. SIGKILL does not wait for SIGCONT, so stopped ones do.
func (g group) kill(ctx context.Context) error {
	g.thaw()
	for {
		pids, err := g.procs()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if g.h.v2 {
			// One write kills the tree, forks in flight included.
			_ = os.WriteFile(g.dir("")+"/cgroup.kill", []byte("1"), 0)
		}
		if i := slices.Index(pids, os.Getpid()); i >= 0 {
			// One of our threads is in the middle of a fork and about to
			// leave. Its child will be seen in the next round.
			runtime.Gosched()
			if ctx.Err() != nil {
				return fmt.Errorf("this process is in cgroup %s: %w", g.path(), ctx.Err())
			}
			pids = slices.Delete(pids, i, i+1)
		}
		if err := killAndWait(ctx, g, pids); err != nil {
			return err
		}
	}
}

func (g group) thaw() {
	if g.h.v2 {
		_ = os.WriteFile(g.dir("")+"/cgroup.freeze", []byte("0"), 0)
		return
	}
	if _, ok := g.h.mounts["freezer"]; ok {
		_ = os.WriteFile(g.dir("freezer")+"/freezer.state", []byte("THAWED"), 0)
	}
}

// remove takes the group away. The kernel may hold a group for a moment after
// its last process has gone, and gives no event on v1.
func (g group) remove(ctx context.Context) error {
	for c := range g.h.mounts {
		for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
			err := unix.Rmdir(g.dir(c))
			if err == nil || err == unix.ENOENT {
				break
			}
			if err != unix.EBUSY {
				return &fs.PathError{Op: "rmdir", Path: g.dir(c), Err: err}
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("cgroup %s stays busy: %w", g.dir(c), ctx.Err())
			case <-time.After(wait):
			}
		}
	}
	return nil
}
