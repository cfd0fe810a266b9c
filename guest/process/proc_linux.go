package process

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticks is the unit of the times in /proc/PID/stat, per second. It is 100 on
// every Linux there is, and on gVisor.
const ticks = 100

// A Stat is one process as /proc shows it.
type Stat struct {
	PID, PPID, Group, Session int
	State                     byte // the kernel's letter: R, S, D, T, Z, ...
	Name                      string
	CPU                       time.Duration // spent so far, in user and kernel mode
	Started                   time.Duration // since boot
	RSS                       uint64        // resident memory in bytes
	Threads                   int
}

// zombie reports whether the process has ended and only its status is left. One
// whose first thread has ended before the others looks dead and is not.
func (s Stat) zombie() bool { return (s.State == 'Z' || s.State == 'X') && s.Threads <= 1 }

// parseStat reads /proc/PID/stat. The name stands in parentheses and may hold
// anything, more parentheses included.
func parseStat(b []byte) (Stat, bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return Stat{}, false
	}
	s := Stat{Name: string(b[open+1 : end])}
	var err error
	if s.PID, err = strconv.Atoi(string(bytes.TrimSpace(b[:open]))); err != nil {
		return Stat{}, false
	}
	f := strings.Fields(string(b[end+1:]))
	if len(f) < 22 || len(f[0]) != 1 {
		return Stat{}, false
	}
	s.State = f[0][0]
	num := func(i int) int64 {
		n, perr := strconv.ParseInt(f[i], 10, 64)
		if perr != nil && err == nil && !errors.Is(perr, strconv.ErrRange) {
			err = perr
		}
		return n
	}
	s.PPID, s.Group, s.Session = int(num(1)), int(num(2)), int(num(3))
	s.CPU = time.Duration(num(11)+num(12)) * (time.Second / ticks)
	s.Threads = int(num(17))
	s.Started = time.Duration(num(19)) * (time.Second / ticks)
	s.RSS = uint64(max(0, num(21))) * uint64(os.Getpagesize())
	return s, err == nil
}

// stat returns one process, and false if it is not there.
func stat(pid int) (Stat, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, false
	}
	return parseStat(b)
}

// pids returns the pid of every process.
func pids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// snapshot returns every process, zombies included, by pid. Those that come or
// go meanwhile may be missing.
func snapshot() ([]Stat, error) {
	pids, err := pids()
	if err != nil {
		return nil, err
	}
	all := make([]Stat, 0, len(pids))
	for _, pid := range pids {
		if s, ok := stat(pid); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Stat) int { return a.PID - b.PID })
	return all, nil
}

// All returns every process of the guest, by pid.
func All() ([]Stat, error) { return snapshot() }

// CommandLine returns a process's arguments joined by spaces, or "" if it has
// none or is gone.
func CommandLine(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(string(b), "\x00", " "), "\uFFFD"))
}

// tagOf returns the soft RLIMIT_RSS of a process. Of one that runs as somebody
// else the limit cannot be asked for, but it can be read.
func tagOf(pid int) (uint64, bool) {
	var lim unix.Rlimit
	err := unix.Prlimit(pid, unix.RLIMIT_RSS, nil, &lim)
	if err == nil {
		return lim.Cur, true
	}
	if !errors.Is(err, unix.EPERM) {
		return 0, false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0, false
	}
	return parseRSSLimit(string(b))
}

// parseRSSLimit finds the soft limit on resident memory in /proc/PID/limits.
func parseRSSLimit(limits string) (uint64, bool) {
	for line := range strings.Lines(limits) {
		rest, ok := strings.CutPrefix(line, "Max resident set")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) == 0 || f[0] == "unlimited" {
			return 0, false
		}
		n, err := strconv.ParseUint(f[0], 10, 64)
		return n, err == nil
	}
	return 0, false
}
