package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// processes is how many processes a container may hold, as a sandbox may.
const processes = 256

// newGVisor is runsc alone: the runtime that the product carries.
func newGVisor(program string, image template, agent, dir string) (*floor, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "gvisor")
	return &floor{
		system: gvisor, program: program, image: image, agent: agent, dir: dir, key: key,
		flags: func(c *container) []string {
			return []string{
				"--root=" + filepath.Join(dir, "state"), "--platform=systrap", "--network=sandbox",
				"--host-uds=none", "--host-fifo=none", "--allow-suid=false", "--debug=false",
				fmt.Sprintf("--overlay2=root:dir=%s,size=%dm", filepath.Join(c.dir, "scratch"), image.Default.DiskMB),
			}
		},
		prepare: func(c *container) error { return os.Mkdir(filepath.Join(c.dir, "root"), 0o700) },
		release: func(*container) error { return nil },
		spec: func(c *container) map[string]any {
			s := spec(c, filepath.Join(c.dir, "root"))
			s["annotations"] = map[string]string{
				"dev.gvisor.spec.rootfs.source":  image.file,
				"dev.gvisor.spec.rootfs.type":    "erofs",
				"dev.gvisor.spec.rootfs.overlay": "dir=" + filepath.Join(c.dir, "scratch"),
				"dev.gvisor.spec.rootfs.options": fmt.Sprintf("size=%dm", image.Default.DiskMB),
			}
			return s
		},
	}, nil
}

// newRunc is Debian's runc on the same image, mounted by the host's kernel with
// a writable layer above it: no gVisor at all.
func newRunc(image template, agent, dir string) (*floor, error) {
	program, err := exec.LookPath("runc")
	if err != nil {
		return nil, errors.New("runc is not installed (apt-get install runc)")
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "runc")
	lower := filepath.Join(dir, "lower")
	if err := os.MkdirAll(lower, 0o700); err != nil {
		return nil, err
	}
	if err := mountImage(image.file, lower); err != nil {
		return nil, errors.Join(fmt.Errorf("this kernel does not mount the image: %w", err), os.RemoveAll(dir))
	}
	return &floor{
		system: runc, program: program, image: image, agent: agent, dir: dir, key: key,
		flags: func(*container) []string { return []string{"--root", filepath.Join(dir, "state")} },
		prepare: func(c *container) error {
			for _, d := range []string{"root", "scratch/upper", "scratch/work"} {
				if err := os.MkdirAll(filepath.Join(c.dir, d), 0o755); err != nil {
					return err
				}
			}
			scratch := filepath.Join(c.dir, "scratch")
			return unix.Mount("overlay", filepath.Join(c.dir, "root"), "overlay", 0,
				"lowerdir="+lower+",upperdir="+scratch+"/upper,workdir="+scratch+"/work")
		},
		release: func(c *container) error {
			return ignore(ignore(unix.Unmount(filepath.Join(c.dir, "root"), unix.MNT_DETACH), unix.EINVAL), unix.ENOENT)
		},
		spec: func(c *container) map[string]any { return spec(c, filepath.Join(c.dir, "root")) },
	}, nil
}

// mountImage mounts an EROFS file: directly where the kernel can (6.12 and
// newer), through a loop device elsewhere.
func mountImage(image, at string) error {
	if unix.Mount(image, at, "erofs", unix.MS_RDONLY, "") == nil {
		return nil
	}
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, at).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

func unmountImage(dir string) error {
	return ignore(ignore(unix.Unmount(filepath.Join(dir, "runc", "lower"), unix.MNT_DETACH), unix.EINVAL), unix.ENOENT)
}

// spec is the part of the specification that both runtimes share.
func spec(c *container, root string) map[string]any {
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	}
	type object = map[string]any
	// The host's kernel counts all of root's processes against this limit, the
	// sandbox's own only its own: under runc the group's limit has to do.
	rlimits := []object{}
	if c.floor.system == gvisor {
		rlimits = append(rlimits, object{"type": "RLIMIT_NPROC", "hard": processes, "soft": processes})
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"args": c.floor.init(), "cwd": "/", "noNewPrivileges": true,
			"env":          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"user":         object{"uid": 0, "gid": 0},
			"capabilities": object{"bounding": caps, "effective": caps, "permitted": caps},
			"rlimits":      rlimits,
		},
		"root":     object{"path": root},
		"hostname": "bench",
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": []string{"nosuid", "nodev", "size=64m"}},
			{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
			{"destination": "/.hutch", "type": "bind", "source": c.floor.agent, "options": []string{"rbind", "ro", "nosuid", "nodev"}},
		},
		"linux": object{
			"cgroupsPath": group(c.id),
			"namespaces": []object{
				{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network", "path": c.net.path},
			},
			"resources": object{
				"memory": object{"limit": (c.floor.image.Default.MemoryMB + 64) << 20},
				"cpu":    object{"quota": c.floor.image.Default.VCPU * 100_000, "period": 100_000},
				"pids":   object{"limit": 3*processes + 128},
			},
		},
	}
}
