// Package fake is a driver that isolates nothing: a cell is an entry in a map.
// It serves tests of everything above the driver, which can make it slow,
// stuck or failing.
package fake

import (
	"context"
	"sync"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
)

// Driver implements [driver.Driver]. The zero Driver is ready. Its cells live
// as long as it does, so that a test can hand one Driver to a second host and
// have it recover them.
type Driver struct {
	// OnCreate, OnDestroy, OnPause, OnResume and OnExport run before the act, if
	// set; an error stops it.
	OnCreate  func(ctx context.Context, b driver.Bundle) error
	OnDestroy func(ctx context.Context, id hutch.SandboxID) error
	OnPause   func(ctx context.Context, id hutch.SandboxID) error
	OnResume  func(ctx context.Context, id hutch.SandboxID) error
	OnExport  func(ctx context.Context, id hutch.SandboxID, path string) error

	mu    sync.Mutex
	cells map[hutch.SandboxID]*Cell
}

var _ driver.Driver = (*Driver)(nil)

// Create implements [driver.Driver].
func (d *Driver) Create(ctx context.Context, b driver.Bundle) (driver.Cell, error) {
	if !b.ID.Valid() {
		return nil, &hutch.Error{Kind: hutch.Invalid, Op: "fake.Create", Msg: "bad sandbox id"}
	}
	if d.OnCreate != nil {
		if err := d.OnCreate(ctx, b); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cells == nil {
		d.cells = map[hutch.SandboxID]*Cell{}
	}
	if d.cells[b.ID] != nil {
		return nil, &hutch.Error{Kind: hutch.Conflict, Op: "fake.Create", Msg: "cell exists"}
	}
	c := &Cell{driver: d, Bundle: b, dead: make(chan struct{})}
	d.cells[b.ID] = c
	return c, nil
}

// Recover implements [driver.Driver].
func (d *Driver) Recover(id hutch.SandboxID) (driver.Cell, error) {
	if !id.Valid() {
		return nil, &hutch.Error{Kind: hutch.Invalid, Op: "fake.Recover", Msg: "bad sandbox id"}
	}
	if c := d.Cell(id); c != nil {
		return c, nil
	}
	return nil, &hutch.Error{Kind: hutch.NotFound, Op: "fake.Recover", Msg: "no such cell"}
}

// List implements [driver.Driver].
func (d *Driver) List() ([]hutch.SandboxID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []hutch.SandboxID
	for id := range d.cells {
		ids = append(ids, id)
	}
	return ids, nil
}

// Cell returns the cell of id, or nil.
func (d *Driver) Cell(id hutch.SandboxID) *Cell {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cells[id]
}

// A Cell implements [driver.Cell], [driver.Pauser] and [driver.Exporter].
type Cell struct {
	Bundle driver.Bundle

	driver *Driver
	once   sync.Once
	dead   chan struct{}
	exit   driver.Exit
}

var (
	_ driver.Cell     = (*Cell)(nil)
	_ driver.Pauser   = (*Cell)(nil)
	_ driver.Exporter = (*Cell)(nil)
)

// Die ends the cell as if by itself.
func (c *Cell) Die(x driver.Exit) {
	c.once.Do(func() {
		c.exit = x
		close(c.dead)
	})
}

// Destroy implements [driver.Cell].
func (c *Cell) Destroy(ctx context.Context) error {
	if f := c.driver.OnDestroy; f != nil {
		if err := f(ctx, c.Bundle.ID); err != nil {
			return err
		}
	}
	c.Die(driver.Exit{})
	c.driver.mu.Lock()
	defer c.driver.mu.Unlock()
	if c.driver.cells[c.Bundle.ID] == c {
		delete(c.driver.cells, c.Bundle.ID)
	}
	return nil
}

// Wait implements [driver.Cell].
func (c *Cell) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-c.dead:
		return c.exit, nil
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
}

// Pause implements [driver.Pauser].
func (c *Cell) Pause(ctx context.Context) error {
	if f := c.driver.OnPause; f != nil {
		return f(ctx, c.Bundle.ID)
	}
	return nil
}

// Resume implements [driver.Pauser].
func (c *Cell) Resume(ctx context.Context) error {
	if f := c.driver.OnResume; f != nil {
		return f(ctx, c.Bundle.ID)
	}
	return nil
}

// Export implements [driver.Exporter].
func (c *Cell) Export(ctx context.Context, path string) error {
	if f := c.driver.OnExport; f != nil {
		return f(ctx, c.Bundle.ID, path)
	}
	return nil
}
