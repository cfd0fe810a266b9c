// Package gvisor is the driver that isolates with gVisor's sentry. It is the
// only package that knows gVisor: it writes the OCI specification, drives our
// slim runsc as a command, and owns the cgroup that every process of a sandbox
// is born into.
//
// The cgroup, not runsc's state file, is the truth of what is alive: runsc
// itself is started inside it, so that a crash at any point of a start leaves
// every process where Destroy finds it. Destroy never asks runsc for anything.
package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
	"golang.org/x/sys/unix"
)

// Config says where a Driver works.
type Config struct {
	// Runsc is the path of the runsc program.
	Runsc string
	// Tag is unique to the installation; kernel objects carry it.
	Tag string
	// Run is the parent of the runtime directory, "/run" if empty. It must be
	// short: runsc puts a Unix socket below it.
	Run string
	// GoferNetNS is the path of an empty network namespace for file servers;
	// if empty, each gets one of its own, which is slower.
	GoferNetNS string
	// Pids is how many processes a sandbox may hold, 256 if zero.
	Pids int
}

// Driver implements [driver.Driver].
type Driver struct {
	cfg     Config
	run     string // directory of runtime state, one directory below it per cell
	cgroups hierarchy
	watcher *watcher
}

var _ driver.Driver = (*Driver)(nil)

// New returns a driver. It creates the runtime directory and the parent cgroup,
// and makes this process the reaper of orphaned sandbox processes.
func New(cfg Config) (*Driver, error) {
	const op = "gvisor.New"
	if cfg.Run == "" {
		cfg.Run = "/run"
	}
	if cfg.Pids == 0 {
		cfg.Pids = 256
	}
	d := &Driver{cfg: cfg, run: filepath.Join(cfg.Run, "hutch-"+cfg.Tag)}
	var err error
	if d.cgroups, err = openHierarchy("hutch-" + cfg.Tag); err != nil {
		return nil, fault(op, "cgroups cannot be used: run `hutch doctor`", err)
	}
	if err := os.MkdirAll(d.run, 0o700); err != nil {
		return nil, fault(op, "no runtime directory", err)
	}
	// Without this a sandbox's dead processes wait for the machine's init, and
	// on some machines that takes a second.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fault(op, "cannot become a reaper of orphans", err)
	}
	if d.watcher, err = newWatcher(); err != nil {
		return nil, fault(op, "cannot watch processes", err)
	}
	return d, nil
}

// destroyTimeout bounds the clearing away of a cell that did not start.
const destroyTimeout = 5 * time.Second

// Close stops watching and removes the runtime directory and the parent cgroup
// if they are empty. Cells live on; another Driver can Recover them.
func (d *Driver) Close() error {
	err := errors.Join(d.watcher.close(), d.cgroups.close())
	if e := os.Remove(d.run); e != nil && !errors.Is(e, unix.ENOTEMPTY) && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// Create implements [driver.Driver].
func (d *Driver) Create(ctx context.Context, b driver.Bundle) (driver.Cell, error) {
	const op = "gvisor.Create"
	if !b.ID.Valid() {
		return nil, &hutch.Error{Kind: hutch.Invalid, Op: op, Msg: "bad sandbox id"}
	}
	c := d.cell(b.ID)
	err := c.start(ctx, b)
	if err == nil {
		return c, nil
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
	defer cancel()
	if left := c.Destroy(undo); left != nil {
		return nil, &driver.LeftError{Cell: c, Err: err, Left: left}
	}
	return nil, fault(op, "sandbox did not start", err)
}

// Recover implements [driver.Driver].
func (d *Driver) Recover(id hutch.SandboxID) (driver.Cell, error) {
	const op = "gvisor.Recover"
	if !id.Valid() {
		return nil, &hutch.Error{Kind: hutch.Invalid, Op: op, Msg: "bad sandbox id"}
	}
	c := d.cell(id)
	_, err := os.Lstat(c.dir)
	if errors.Is(err, os.ErrNotExist) && !d.cgroups.group(string(id)).exists() {
		return nil, &hutch.Error{Kind: hutch.NotFound, Op: op, Msg: "no such cell"}
	}
	if err := c.attach(); err != nil {
		return nil, fault(op, "cell cannot be re-attached", err)
	}
	return c, nil
}

// List implements [driver.Driver].
func (d *Driver) List() ([]hutch.SandboxID, error) {
	const op = "gvisor.List"
	seen := map[hutch.SandboxID]bool{}
	entries, err := os.ReadDir(d.run)
	if err != nil {
		return nil, fault(op, "runtime directory cannot be read", err)
	}
	for _, e := range entries {
		seen[hutch.SandboxID(e.Name())] = true
	}
	names, err := d.cgroups.list()
	if err != nil {
		return nil, fault(op, "cgroups cannot be read", err)
	}
	for _, n := range names {
		seen[hutch.SandboxID(n)] = true
	}
	var ids []hutch.SandboxID
	for id := range seen {
		if id.Valid() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (d *Driver) cell(id hutch.SandboxID) *cell {
	return &cell{
		driver: d,
		id:     id,
		dir:    filepath.Join(d.run, string(id)),
		group:  d.cgroups.group(string(id)),
		dead:   make(chan struct{}),
	}
}

// flags are what every runsc command is given. They are fixed here and cannot
// be overridden from a specification.
func (d *Driver) flags(c *cell, scratch string, diskMB int) []string {
	netns := "new"
	if d.cfg.GoferNetNS != "" {
		netns = d.cfg.GoferNetNS
	}
	return []string{
		"--root=" + c.root(),
		"--platform=systrap",
		"--network=sandbox",
		"--gofer-network-namespace=" + netns,
		"--host-uds=none",
		"--host-fifo=none",
		"--character-device-policy=emulated-only",
		"--net-raw=false",
		"--allow-packet-socket-write=false",
		"--allow-flag-override=false",
		"--allow-suid=false",
		"--allow-rootfs-tar-annotation=true",
		"--oci-seccomp=false",
		"--profile=false",
		"--debug=false",
		"--watchdog-action=panic",
		fmt.Sprintf("--overlay2=root:dir=%s,size=%dm", scratch, diskMB),
	}
}

func fault(op, msg string, err error) error {
	return &hutch.Error{Kind: hutch.Internal, Op: op, Msg: msg, Err: err}
}

// firstLines cuts what a failed program said to something a log line can hold.
func firstLines(b []byte) string {
	const most = 2000
	s := strings.TrimSpace(string(b))
	if len(s) > most {
		s = s[:most] + " …"
	}
	return s
}
