package main

import (
	"context"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
)

// A system makes cells: the product, or a floor.
type system interface {
	// make returns a cell that takes commands, and how long that took.
	make(ctx context.Context) (cell, time.Duration, error)
}

// A cell is one sandbox or container with an agent in it.
type cell interface {
	sandbox() *caller.Sandbox
	// kill ends it and returns how long it took until nothing was left.
	kill(ctx context.Context) (time.Duration, error)
}

func (c *container) sandbox() *caller.Sandbox { return c.Sandbox }

// A hutch is the product, spoken to over HTTP with a connection for each
// request, as HopX's SDK does.
type hutch struct {
	who      caller.Caller
	template string
}

type sandboxed struct{ *caller.Sandbox }

func (s sandboxed) sandbox() *caller.Sandbox { return s.Sandbox }

func (h hutch) make(ctx context.Context) (cell, time.Duration, error) {
	sb, a, err := h.who.Create(ctx, h.template, nil)
	if err != nil {
		return nil, a.Took, err
	}
	return sandboxed{sb}, a.Took, nil
}

func (s sandboxed) kill(ctx context.Context) (time.Duration, error) {
	a, err := s.Kill(ctx)
	return a.Took, err
}
