// Package undo collects what must be taken back when a sequence of steps fails
// or its result is given up.
package undo

import (
	"errors"
	"fmt"
)

// A Stack holds named steps back. The zero Stack is empty and ready. It is not
// safe for concurrent use.
type Stack struct{ steps []step }

type step struct {
	name string
	back func() error
}

// Push adds the way back of a step that was just taken, or is about to be.
func (s *Stack) Push(name string, back func() error) {
	s.steps = append(s.steps, step{name, back})
}

// Run takes every step back, last first, and joins their errors. One that fails
// does not stop the others; it stays on the stack, so that the next Run tries
// only what is left.
func (s *Stack) Run() error {
	var errs []error
	var left []step
	for i := len(s.steps) - 1; i >= 0; i-- {
		if err := s.steps[i].back(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.steps[i].name, err))
			left = append([]step{s.steps[i]}, left...)
		}
	}
	s.steps = left
	return errors.Join(errs...)
}

// Len returns how many steps are left to take back.
func (s *Stack) Len() int { return len(s.steps) }
