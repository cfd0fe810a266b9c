package gvisor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hutch-sh/hutch/host/driver"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities is the most that root inside a sandbox may have. Left out on
// purpose: NET_ADMIN (would let it take another address), NET_RAW, SYS_ADMIN
// and SYS_RESOURCE (would lift RLIMIT_NPROC), SYS_PTRACE and MKNOD.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
}

// openFiles is RLIMIT_NOFILE inside a sandbox: what systemd gives a service.
const openFiles = 65536

// specFor builds the OCI specification of a cell. Nothing that a tenant chose
// reaches it but the three numbers of its resources.
func (d *Driver) specFor(c *cell, b driver.Bundle) *specs.Spec {
	caps := append([]string(nil), capabilities...)
	s := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args:            b.Args,
			Env:             []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cwd:             "/",
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NPROC", Hard: uint64(d.cfg.Pids), Soft: uint64(d.cfg.Pids)},
				{Type: "RLIMIT_NOFILE", Hard: openFiles, Soft: openFiles},
				{Type: "RLIMIT_CORE", Hard: 0, Soft: 0},
			},
		},
		Root:     &specs.Root{Path: c.emptyRoot()},
		Hostname: b.Hostname,
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", fmt.Sprintf("size=%dm", shmMB(b.Resources.MemoryMB))}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: driver.AgentMount, Type: "bind", Source: b.Agent, Options: []string{"rbind", "ro", "nosuid", "nodev"}},
		},
		Annotations: map[string]string{
			"dev.gvisor.spec.rootfs.source":  b.Rootfs,
			"dev.gvisor.spec.rootfs.type":    "erofs",
			"dev.gvisor.spec.rootfs.overlay": "dir=" + b.Scratch,
			"dev.gvisor.spec.rootfs.options": fmt.Sprintf("size=%dm", b.Resources.DiskMB),
		},
		Linux: &specs.Linux{
			CgroupsPath: c.group.path(),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: b.NetNS},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if b.Upper != "" {
		s.Annotations["dev.gvisor.tar.rootfs.upper"] = b.Upper
	}
	return s
}

// shmMB is the size of /dev/shm: half of the memory, as Linux has it.
func shmMB(memory int) int { return max(memory/2, 16) }

func writeSpec(path string, s *specs.Spec) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
