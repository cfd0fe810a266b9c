package ledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

type process struct {
	pid, parent int
	state       string
	started     string // clock ticks since boot: with pid, an identity
	command     string
	netns       string // "" if it cannot be read, as of a zombie
}

func (p process) String() string {
	if p.state == "Z" {
		return fmt.Sprintf("%d@%s %s (zombie)", p.pid, p.started, p.command)
	}
	return fmt.Sprintf("%d@%s %s", p.pid, p.started, p.command)
}

// processes returns every process in a marked cgroup, with a marked command
// line, or below the server. The server itself and this process are not ours
// to count.
func (s Scope) processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	ours := map[int]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, marked, err := s.process(pid)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[pid] = p
		ours[pid] = marked
	}
	var found []process
	for pid, p := range all {
		if pid == s.Server || pid == os.Getpid() {
			continue
		}
		if ours[pid] || s.below(all, p) {
			found = append(found, p)
		}
	}
	return found, nil
}

func (s Scope) below(all map[int]process, p process) bool {
	for hops := 0; s.Server != 0 && p.parent > 1 && hops < 64; hops++ {
		if p.parent == s.Server {
			return true
		}
		p = all[p.parent]
	}
	return false
}

func (s Scope) process(pid int) (p process, marked bool, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, false, err
	}
	// The name stands in brackets and may hold anything; what follows is fields.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	field := strings.Fields(string(stat[end+1:]))
	if open < 0 || end < open || len(field) < 20 {
		return p, false, fmt.Errorf("stat of process %d cannot be read: %q", pid, stat)
	}
	p = process{pid: pid, state: field[0], started: field[19], command: string(stat[open+1 : end])}
	p.parent, _ = strconv.Atoi(field[1])
	cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return p, false, err
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, false, err
	}
	if args := strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))); args != "" {
		p.command = args
	}
	p.netns, _ = os.Readlink(filepath.Join(dir, "ns", "net"))
	return p, s.marked(string(cgroup)) || s.marked(p.command), nil
}

// gone reports whether err says that a process ended while we looked.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// cgroups counts every cgroup below one whose name is marked.
func (s Scope) cgroups(_ context.Context, add func(string)) error {
	mounts, err := mountsOf("self")
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, m := range mounts {
		if m.kind != "cgroup" && m.kind != "cgroup2" || seen[m.point] {
			continue
		}
		seen[m.point] = true
		err := filepath.WalkDir(m.point, func(path string, d fs.DirEntry, err error) error {
			switch {
			case gone(err):
				return nil
			case err != nil:
				return err
			case d.IsDir() && s.marked(path):
				add(path)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// namespaces counts the network namespaces that have a marked name, and those
// that only a process of ours holds.
func (s Scope) namespaces(procs []process, add func(string)) error {
	host, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	held := map[string]bool{}
	for _, p := range procs {
		if p.netns != "" && p.netns != host && !held[p.netns] {
			held[p.netns] = true
			add(p.netns)
		}
	}
	mounts, err := s.visibleMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.kind == "nsfs" && s.marked(m.point) {
			add(m.point)
		}
	}
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join("/run/netns", e.Name()); s.marked(path) {
			add("name " + path)
		}
	}
	return nil
}

type mount struct{ kind, root, point string }

// mountsOf reads the mounts that a process sees.
func mountsOf(pid string) ([]mount, error) {
	f, err := os.Open(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []mount
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 1 {
			return nil, fmt.Errorf("a mount cannot be read: %q", lines.Text())
		}
		mounts = append(mounts, mount{kind: right[0], root: left[3], point: left[4]})
	}
	return mounts, lines.Err()
}

// visibleMounts are those that this process and the server see.
func (s Scope) visibleMounts() ([]mount, error) {
	all, err := mountsOf("self")
	if err != nil || s.Server == 0 {
		return all, err
	}
	servers, err := mountsOf(strconv.Itoa(s.Server))
	if err != nil {
		return nil, err
	}
	seen := map[mount]bool{}
	for _, m := range all {
		seen[m] = true
	}
	for _, m := range servers {
		if !seen[m] {
			all = append(all, m)
		}
	}
	return all, nil
}

func (s Scope) mounts(_ context.Context, add func(string)) error {
	mounts, err := s.visibleMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if s.marked(m.point) || s.marked(m.root) {
			add(m.kind + " on " + m.point)
		}
	}
	return nil
}

func (s Scope) files(_ context.Context, add func(string)) error {
	for _, dir := range s.Dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			switch {
			case gone(err):
				return nil
			case err != nil:
				return err
			}
			if d.Type()&fs.ModeSocket == 0 { // those are counted as sockets
				add(path)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func usage(pid int) (Usage, error) {
	var u Usage
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		field := strings.Fields(value)
		if len(field) == 0 {
			continue
		}
		n, _ := strconv.ParseInt(field[0], 10, 64)
		switch name {
		case "VmRSS":
			u.RSS = n << 10
		case "Threads":
			u.Threads = int(n)
		}
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u.FDs = len(entries)
	return u, err
}
