package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// privileges checks for root with the capabilities that making a sandbox takes.
func privileges(_ context.Context, m machine, _ Options) Finding {
	const name = "root"
	if m.euid != 0 {
		return fail(name, "not root", "run the server as root: it makes namespaces, cgroups and network rules")
	}
	var lacks []string
	for _, c := range []struct {
		bit  uint
		name string
	}{{1, "DAC_OVERRIDE"}, {5, "KILL"}, {6, "SETGID"}, {7, "SETUID"}, {12, "NET_ADMIN"}, {18, "SYS_CHROOT"}, {21, "SYS_ADMIN"}} {
		if m.capable&(1<<c.bit) == 0 {
			lacks = append(lacks, c.name)
		}
	}
	if len(lacks) > 0 {
		return fail(name, "root without the capabilities "+strings.Join(lacks, ", "),
			"in a container: run it privileged; under systemd: remove CapabilityBoundingSet= from the unit")
	}
	return ok(name, "root with all capabilities that are needed")
}

// kernel checks for the calls a host depends on: pidfd_open (5.3) and starting
// a process inside a cgroup (5.7).
func kernel(_ context.Context, m machine, _ Options) Finding {
	const name = "kernel"
	major, minor, ok1 := version(m.release)
	switch {
	case !ok1:
		return warn(name, "version "+m.release+" is not understood", "check by hand that it is 5.10 or newer")
	case major < 5 || major == 5 && minor < 7:
		return fail(name, "Linux "+m.release, "install a newer kernel: 5.7 is the least, 5.10 the oldest that is still maintained")
	case major == 5 && minor < 10:
		return warn(name, "Linux "+m.release+", which nobody maintains any more", "install a newer kernel: 5.10 is the oldest that is still maintained")
	}
	return ok(name, "Linux "+m.release)
}

// version reads the first two numbers of a kernel release like "6.1.0-18-amd64".
func version(release string) (major, minor int, ok bool) {
	a, rest, found := strings.Cut(release, ".")
	if !found {
		return 0, 0, false
	}
	digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(digits)
	return major, minor, err1 == nil && err2 == nil
}

func architecture(_ context.Context, m machine, _ Options) Finding {
	const name = "processor"
	switch m.arch {
	case "amd64":
		return ok(name, "amd64")
	case "arm64":
		return warn(name, "arm64, for which Hutch has not been tested", "run make test here before relying on it")
	}
	return fail(name, m.arch, "gVisor runs on amd64 and arm64 only: use such a machine")
}

// seccomp checks for the filter that stands behind gVisor, with the action its
// platform traps system calls by.
func seccomp(_ context.Context, m machine, _ Options) Finding {
	const name = "seccomp"
	b, err := fs.ReadFile(m.files, "proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		return fail(name, "this kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER; every distribution's has it")
	}
	have := bytes.Fields(b)
	for _, need := range []string{"kill_process", "trap", "errno"} {
		if !contains(have, need) {
			return fail(name, "the kernel offers "+string(bytes.Join(have, []byte(" ")))+", but not "+need,
				"use a kernel of 4.14 or newer with CONFIG_SECCOMP_FILTER")
		}
	}
	return ok(name, "filters with all actions that are needed")
}

func contains(words [][]byte, w string) bool {
	for _, x := range words {
		if string(x) == w {
			return true
		}
	}
	return false
}

// namespaces checks that the kernel makes as many namespaces as the planned
// sandboxes take: each has a network namespace, and the runtime's processes
// have user, mount and PID namespaces of their own.
func namespaces(_ context.Context, m machine, o Options) Finding {
	const name = "namespaces"
	need := 4*o.Sandboxes + 64
	for _, kind := range []string{"user", "net", "mnt", "pid", "ipc", "uts"} {
		file := "sys/user/max_" + kind + "_namespaces"
		n, err := number(m.files, "proc/"+file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fail(name, "this kernel has no "+kind+" namespaces", "use a kernel with CONFIG_NAMESPACES and CONFIG_USER_NS; every distribution's has them")
		case err != nil:
			return skip(name, err.Error())
		case n < int64(need):
			return fail(name, fmt.Sprintf("at most %d %s namespaces; %d sandboxes take up to %d", n, kind, o.Sandboxes, need),
				fmt.Sprintf("sysctl -w user.max_%s_namespaces=%d, and keep it in /etc/sysctl.d/90-hutch.conf", kind, max(need, 15000)))
		}
	}
	return ok(name, "user, network, mount and PID namespaces, enough of each")
}

// processes checks that sandboxes at their worst do not use up the process ids
// of the machine.
func processes(_ context.Context, m machine, o Options) Finding {
	const name = "process ids"
	limit, from := int64(0), ""
	for _, file := range []string{"proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max"} {
		n, err := number(m.files, file)
		if err != nil {
			return skip(name, err.Error())
		}
		if from == "" || n < limit {
			limit, from = n, strings.ReplaceAll(strings.TrimPrefix(file, "proc/sys/"), "/", ".")
		}
	}
	const system = 2048 // what the machine takes for itself
	fit := max(0, (limit-system)/int64(max(1, o.Tasks)))
	found := fmt.Sprintf("%s is %d: room for %d sandboxes that each take all %d they may", from, limit, fit, o.Tasks)
	if fit < int64(o.Sandboxes) {
		return warn(name, found, fmt.Sprintf("sysctl -w %s=%d, and keep it in /etc/sysctl.d/90-hutch.conf; or run with --max-sandboxes %d",
			from, max(int64(o.Sandboxes*o.Tasks+system), 4194304), fit))
	}
	return ok(name, found)
}

// mappings checks how many memory mappings one process may have: a sandbox's
// whole memory is mapped by one process of the host.
func mappings(_ context.Context, m machine, _ Options) Finding {
	const name, usual = "memory mappings", 65530
	n, err := number(m.files, "proc/sys/vm/max_map_count")
	if err != nil {
		return skip(name, err.Error())
	}
	found := fmt.Sprintf("vm.max_map_count is %d", n)
	if n < usual {
		return fail(name, found+", less than Linux's own default", "sysctl -w vm.max_map_count=262144, and keep it in /etc/sysctl.d/90-hutch.conf")
	}
	return ok(name, found)
}

// cuse checks that the kernel does not offer character devices in user space:
// CVE-2026-96812 led through /dev/cuse to root on the host. The gVisor that
// Hutch carries has it fixed; a machine for sandboxes has no use for it.
func cuse(_ context.Context, m machine, _ Options) Finding {
	const name = "cuse"
	if _, err := fs.Stat(m.files, "sys/module/cuse"); err == nil {
		return warn(name, "the kernel module cuse is loaded; an attack on sandboxes has come through it (CVE-2026-96812, fixed in this runtime)",
			"modprobe -r cuse, and put \"install cuse /bin/false\" into /etc/modprobe.d/hutch.conf")
	}
	return ok(name, "not loaded")
}

// threads checks simultaneous multithreading, through which one core's tenants
// can observe each other.
func threads(_ context.Context, m machine, _ Options) Finding {
	const name = "hyper-threads"
	n, err := number(m.files, "sys/devices/system/cpu/smt/active")
	switch {
	case err != nil:
		return skip(name, "the kernel does not say whether a core runs two threads")
	case n != 0:
		return warn(name, "on: two sandboxes can share a core and observe each other's timing",
			"if tenants must not learn from each other: boot with \"nosmt\", or echo off > /sys/devices/system/cpu/smt/control")
	}
	return ok(name, "off")
}

// samePage checks kernel samepage merging, which tells one tenant what memory
// another one has.
func samePage(_ context.Context, m machine, _ Options) Finding {
	const name = "memory merging"
	n, err := number(m.files, "sys/kernel/mm/ksm/run")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok(name, "not in this kernel")
	case err != nil:
		return skip(name, err.Error())
	case n == 1:
		return warn(name, "KSM is on: a tenant can find out what another one's memory holds", "echo 2 > /sys/kernel/mm/ksm/run, and disable ksmtuned or ksm.service")
	}
	return ok(name, "off")
}

// swap checks that tenants' memory is not written to a disk, where it outlives
// the sandbox.
func swap(_ context.Context, m machine, _ Options) Finding {
	const name = "swap"
	b, err := fs.ReadFile(m.files, "proc/swaps")
	if err != nil {
		return skip(name, err.Error())
	}
	var used []string
	for i, l := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		if f := bytes.Fields(l); i > 0 && len(f) > 0 {
			used = append(used, string(f[0]))
		}
	}
	if len(used) > 0 {
		return warn(name, "on ("+strings.Join(used, ", ")+"): a sandbox's memory may be found on the disk after its end",
			"swapoff -a and remove it from /etc/fstab; or encrypt it")
	}
	return ok(name, "off")
}

// number reads a file that holds one.
func number(files fs.FS, name string) (int64, error) {
	b, err := fs.ReadFile(files, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/%s: %w", name, err)
	}
	return n, nil
}
