// Package drivertest holds the tests every driver must pass.
package drivertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/host/driver"
)

// A Subject is a driver under test and what its cells are made from.
type Subject struct {
	Driver driver.Driver
	// Bundle returns a bundle for a new cell.
	Bundle func(t *testing.T, id hutch.SandboxID) driver.Bundle
	// Left reports what is left of id outside the driver's own knowledge:
	// processes, groups, files. Empty is clean.
	Left func(t *testing.T, id hutch.SandboxID) []string
	// End makes a living cell end by itself.
	End func(t *testing.T, id hutch.SandboxID)
	// Reopen returns a second driver on the same machine, as after a restart.
	Reopen func(t *testing.T) driver.Driver
}

const patience = 20 * time.Second

// Run checks the driver that open returns, once for each test.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	tests := map[string]func(t *testing.T, s Subject){
		"DestroyEndsWait":     destroyEndsWait,
		"DestroyIsRepeatable": destroyIsRepeatable,
		"EndsByItself":        endsByItself,
		"RecoverAlive":        recoverAlive,
		"RecoverDead":         recoverDead,
		"RecoverNothing":      recoverNothing,
		"List":                list,
		"CanceledCreate":      canceledCreate,
		"CreateCutAnywhere":   createCutAnywhere,
		"PauseResume":         pauseResume,
		"DestroyPaused":       destroyPaused,
		"ParallelDestroy":     parallelDestroy,
		"HostileIDIsRefused":  hostileID,
	}
	for name, f := range tests {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
}

func create(t *testing.T, s Subject) (hutch.SandboxID, driver.Cell) {
	t.Helper()
	id := hutch.NewSandboxID()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := s.Driver.Create(ctx, s.Bundle(t, id))
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(func() { destroy(t, s, id, c) })
	return id, c
}

func destroy(t *testing.T, s Subject, id hutch.SandboxID, c driver.Cell) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Destroy(ctx); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	clean(t, s, id)
}

func clean(t *testing.T, s Subject, id hutch.SandboxID) {
	t.Helper()
	for _, what := range s.Left(t, id) {
		t.Errorf("left of %s: %s", id, what)
	}
}

func wait(t *testing.T, c driver.Cell) driver.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	x, err := c.Wait(ctx)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return x
}

func alive(t *testing.T, c driver.Cell) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if x, err := c.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait of a living cell = %v, %v", x, err)
	}
}

func destroyEndsWait(t *testing.T, s Subject) {
	id, c := create(t, s)
	alive(t, c)
	destroy(t, s, id, c)
	wait(t, c)
}

func destroyIsRepeatable(t *testing.T, s Subject) {
	id, c := create(t, s)
	for range 3 {
		destroy(t, s, id, c)
	}
}

func endsByItself(t *testing.T, s Subject) {
	id, c := create(t, s)
	s.End(t, id)
	if x := wait(t, c); x.OOM {
		t.Error("said to be out of memory")
	}
	destroy(t, s, id, c)
}

func recoverAlive(t *testing.T, s Subject) {
	id, c := create(t, s)
	again, err := s.Reopen(t).Recover(id)
	if err != nil {
		t.Fatalf("Recover: %v", err)
	}
	alive(t, again)
	destroy(t, s, id, again)
	wait(t, again)
	wait(t, c)
}

func recoverDead(t *testing.T, s Subject) {
	id, c := create(t, s)
	s.End(t, id)
	wait(t, c)
	again, err := s.Reopen(t).Recover(id)
	if err != nil {
		t.Fatalf("Recover of what is left: %v", err)
	}
	wait(t, again)
	destroy(t, s, id, again)
}

func recoverNothing(t *testing.T, s Subject) {
	if _, err := s.Driver.Recover(hutch.NewSandboxID()); hutch.KindOf(err) != hutch.NotFound || err == nil {
		t.Errorf("Recover of nothing: %v, want NotFound", err)
	}
}

func list(t *testing.T, s Subject) {
	id, c := create(t, s)
	ids, err := s.Driver.List()
	if err != nil || len(ids) != 1 || ids[0] != id {
		t.Errorf("List = %v, %v; want %s", ids, err, id)
	}
	destroy(t, s, id, c)
	if ids, err := s.Driver.List(); err != nil || len(ids) != 0 {
		t.Errorf("List = %v, %v; want none", ids, err)
	}
}

func canceledCreate(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	id := hutch.NewSandboxID()
	if _, err := s.Driver.Create(ctx, s.Bundle(t, id)); err == nil {
		t.Error("Create with a context that has ended succeeded")
	}
	clean(t, s, id)
}

// createCutAnywhere cancels creates at moments spread over their whole length.
func createCutAnywhere(t *testing.T, s Subject) {
	_, c := create(t, s) // warm
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		id := hutch.NewSandboxID()
		b := s.Bundle(t, id)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*5*time.Millisecond)
		c, err := s.Driver.Create(ctx, b)
		cancel()
		if err == nil {
			destroy(t, s, id, c)
			continue
		}
		var left *driver.LeftError
		if errors.As(err, &left) {
			t.Errorf("left behind: %v", left.Left)
			destroy(t, s, id, left.Cell)
		}
		clean(t, s, id)
	}
}

func pauseResume(t *testing.T, s Subject) {
	_, c := create(t, s)
	p, ok := c.(driver.Pauser)
	if !ok {
		t.Skip("SKIP: this driver cannot pause")
	}
	for range 3 {
		for _, f := range []func(context.Context) error{p.Pause, p.Pause, p.Resume, p.Resume} {
			if err := f(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	alive(t, c)
}

func destroyPaused(t *testing.T, s Subject) {
	id, c := create(t, s)
	if p, ok := c.(driver.Pauser); ok {
		if err := p.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	destroy(t, s, id, c)
}

func parallelDestroy(t *testing.T, s Subject) {
	id, c := create(t, s)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := c.Destroy(ctx); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
	}
	wg.Wait()
	clean(t, s, id)
}

func hostileID(t *testing.T, s Subject) {
	for _, id := range []hutch.SandboxID{"", ".", "..", "../x", "s/../../etc", "S123", hutch.NewSandboxID() + "a"} {
		if _, err := s.Driver.Create(t.Context(), driver.Bundle{ID: id}); hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("Create(%q): %v, want Invalid", id, err)
		}
		if _, err := s.Driver.Recover(id); hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("Recover(%q): %v, want Invalid", id, err)
		}
	}
}
