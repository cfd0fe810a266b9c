package hutch

import (
	"context"
	"errors"
)

// A Kind classes an error by what the caller can do about it.
type Kind uint8

// Kinds. The zero Kind is Internal, so an unclassified error is never shown.
const (
	Internal        Kind = iota // a bug or a broken machine
	Invalid                     // the request is wrong and stays wrong
	Unauthenticated             // no valid credential
	Forbidden                   // a valid credential that does not allow this
	Unpaid                      // credits are used up
	NotFound                    // no such thing, or not yours
	Conflict                    // the thing is in the wrong state
	TooLarge                    // the request is larger than allowed
	Exhausted                   // too many requests
	Unsupported                 // not offered here
	Unavailable                 // try again: nothing was done, or the order stands and is being carried out
	Timeout                     // no answer in time
	Canceled                    // the caller went away
)

// Error is the error every package returns across its border.
type Error struct {
	Kind    Kind
	Code    string         // the contract's own word, if it has one
	Op      string         // where: "package.Function"
	Msg     string         // may be shown to a user: what happened and what to do
	Details map[string]any // may be shown to a user
	Err     error          // the cause, for the operator's log only
}

// Error returns the operator's view, cause included.
func (e *Error) Error() string {
	s := e.Msg
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the outermost [Error] in err's chain. Errors of
// contexts have kinds of their own; everything else is Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}
