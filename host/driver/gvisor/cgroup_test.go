package gvisor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What of cgroup v2 a machine that binds the controllers to v1 can show: birth
// in a group, a group's members, a kill of frozen and forking ones, removal.
// (The limits of v2 need a machine that runs v2 alone.)
func TestGroupsOfVersionTwo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: cgroups need root")
	}
	mount := ""
	for _, m := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var fs unix.Statfs_t
		if unix.Statfs(m, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			mount = m
		}
	}
	if mount == "" {
		t.Skip("SKIP: cgroup v2 is not mounted")
	}
	h := hierarchy{parent: "hutch-" + randomTag(), v2: true, mounts: map[string]string{"": mount}}
	g := h.group("x")
	if err := os.MkdirAll(g.dir(""), 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Rmdir(filepath.Dir(g.dir(""))) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for name, freeze := range map[string]bool{"running": false, "frozen": true} {
		cmd := exec.Command("/bin/sh", "-c", "while :; do sleep 0.01; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := os.MkdirAll(g.dir(""), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := startIn(g, cmd); err != nil {
			t.Fatal(name, err)
		}
		waited := make(chan error, 1)
		go func() { waited <- wait(cmd) }()
		if pids, err := g.procs(); err != nil || !slices.Contains(pids, cmd.Process.Pid) {
			t.Errorf("%s: members %v, %v", name, pids, err)
		}
		if freeze {
			if err := os.WriteFile(g.dir("")+"/cgroup.freeze", []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.kill(ctx); err != nil {
			t.Fatal(name, err)
		}
		if pids, err := g.procs(); err != nil || len(pids) > 0 {
			t.Errorf("%s: left %v, %v", name, pids, err)
		}
		<-waited
		if err := g.remove(ctx); err != nil || g.exists() {
			t.Errorf("%s: not removed: %v", name, err)
		}
	}
}
