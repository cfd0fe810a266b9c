package store

import (
	"context"
	"database/sql"
	"errors"

	hutch "github.com/hutch-sh/hutch"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const diskFull = "the server's disk is full: free some space and try again"

// fail turns err into the error that leaves the package. Errors that are ready
// to leave pass; what SQLite says is told apart by what the caller can do.
func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*hutch.Error](err); ok {
		if e.Op == "" {
			e.Op = op
		}
		return e
	}
	e := &hutch.Error{Kind: hutch.KindOf(err), Op: op, Msg: "the database failed", Err: err}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Msg = "gave up waiting for the database; nothing was changed"
	case isFull(err):
		e.Kind, e.Msg = hutch.Unavailable, diskFull
	case isBusy(err):
		e.Kind, e.Msg = hutch.Unavailable, "the database is busy: try again"
	}
	return e
}

func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return sqlite3.SQLITE_OK
}

func isFull(err error) bool { return code(err)&0xff == sqlite3.SQLITE_FULL }

func isBusy(err error) bool {
	c := code(err) & 0xff
	return c == sqlite3.SQLITE_BUSY || c == sqlite3.SQLITE_LOCKED
}

// isDuplicate reports that a primary key or a unique set of columns is taken.
func isDuplicate(err error) bool {
	c := code(err)
	return c == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || c == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

// orNotFound replaces "no rows" by NotFound with msg.
func orNotFound(err error, msg string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return &hutch.Error{Kind: hutch.NotFound, Msg: msg}
	}
	return err
}
