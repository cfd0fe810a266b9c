// Package driver is the port between a host and an isolation technology: what
// it takes to put one sandbox behind walls and to take it down again. It knows
// nothing of addresses, templates or orders.
package driver

import (
	"context"

	"github.com/hutch-sh/hutch"
)

// A Driver makes cells on this machine and finds them again.
type Driver interface {
	// Create starts a cell and returns when its first process has written
	// Bundle.Ready. If ctx ends first, or anything fails, the cell is destroyed
	// before Create returns; if even that failed, the error is a [*LeftError].
	Create(ctx context.Context, b Bundle) (Cell, error)

	// Recover returns the cell of id that an earlier process of the host made,
	// alive or half made or dead but not cleared away. It returns a NotFound
	// error when nothing of it is left.
	Recover(id hutch.SandboxID) (Cell, error)

	// List returns every id of which anything is left on this machine.
	List() ([]hutch.SandboxID, error)
}

// A Cell is one isolated machine. Its methods may be called from any goroutine.
type Cell interface {
	// Destroy kills everything in the cell and gives back all that the driver
	// made for it. It returns nil only when nothing is left, and may be called
	// again after an error or a success.
	Destroy(ctx context.Context) error

	// Wait returns how the cell ended, as soon as it has.
	Wait(ctx context.Context) (Exit, error)
}

// A Pauser is a cell that can stand still and go on, keeping memory and
// processes. Pausing a paused cell and resuming a running one succeed.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// An Exporter is a cell that can save what was written above its root image.
// The bundle of a later cell takes the file as Upper.
type Exporter interface {
	Export(ctx context.Context, path string) error
}

// A Bundle is what a cell is made from.
type Bundle struct {
	ID        hutch.SandboxID
	Hostname  string
	Rootfs    string // file: the read-only root image (EROFS)
	Upper     string // file: what an earlier cell wrote above it, or ""
	Scratch   string // directory on disk for what this cell writes; the host's to remove
	Agent     string // directory bound read-only to AgentMount
	Args      []string
	Ready     string // what Args writes to standard output when the cell is up
	NetNS     string // file: the network namespace
	Resources hutch.Resources
}

// AgentMount is where a cell sees Bundle.Agent.
const AgentMount = "/.hutch"

// Exit says how a cell ended.
type Exit struct {
	OOM bool // the kernel killed something in it for want of memory
}

// A LeftError says that a cell could not be made and that something of it is
// left. Cell.Destroy tries to remove the rest.
type LeftError struct {
	Cell Cell
	Err  error // why it could not be made
	Left error // why it could not be cleared away
}

// Error returns both reasons.
func (e *LeftError) Error() string { return e.Err.Error() + "; and left behind: " + e.Left.Error() }

// Unwrap returns both reasons.
func (e *LeftError) Unwrap() []error { return []error{e.Err, e.Left} }
