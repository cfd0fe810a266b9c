package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"charm.land/fang/v2"
	"github.com/mattn/go-isatty"

	"github.com/hutch-sh/hutch/api"
)

// Exit codes, which scripts may rely on.
const (
	ExitOK          = 0
	ExitFailure     = 1   // whatever has no code of its own
	ExitUsage       = 2   // wrong arguments, or a request that is not valid
	ExitAuth        = 3   // no valid key
	ExitNotFound    = 4   // no such thing, or not yours
	ExitTimeout     = 5   // no answer in time
	ExitNetwork     = 6   // the server cannot be reached
	ExitRateLimit   = 7   // too many requests
	ExitInterrupted = 130 // Ctrl-C
)

// A failure is an error as a person should read it.
type failure struct {
	what string // what happened, one sentence without a stop
	next string // what to do next; "": nothing that is known
	code int
	err  error // the cause
}

// Error returns what happened and why, without advice.
func (f *failure) Error() string {
	if f.err == nil {
		return f.what
	}
	return f.what + ": " + f.err.Error()
}

// Unwrap returns the cause.
func (f *failure) Unwrap() error { return f.err }

// usage is a wrong command line.
func usage(format string, args ...any) error {
	return &failure{what: fmt.Sprintf(format, args...), code: ExitUsage}
}

// absent is an ability this build does not have.
func absent(what string) error {
	return &failure{
		what: what + " is not part of this build of hutch",
		next: "run it on the Linux machine that runs the server",
		code: ExitFailure,
	}
}

// ExitCode returns the exit code that err ends the program with.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if f, ok := errors.AsType[*failure](err); ok && f.code != ExitOK {
		return f.code
	}
	if s, ok := errors.AsType[*statusError](err); ok {
		return codeOf(s.status)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return ExitTimeout
	}
	// Not net.Error: an errno, of a file for instance, looks like one.
	if n, ok := errors.AsType[*net.OpError](err); ok {
		if n.Timeout() {
			return ExitTimeout
		}
		return ExitNetwork
	}
	return codeOf(api.StatusOf(err))
}

func codeOf(status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return ExitUsage
	case http.StatusUnauthorized:
		return ExitAuth
	case http.StatusNotFound, http.StatusGone:
		return ExitNotFound
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return ExitTimeout
	case http.StatusTooManyRequests:
		return ExitRateLimit
	}
	return ExitFailure
}

// advice returns what to do next about err, or "".
func advice(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		if f.next == "" && f.code == ExitUsage {
			return "--help shows how it is used"
		}
		return f.next
	}
	return ""
}

// showError returns what writes an error to w for a person: what happened, then
// what to do next.
func showError(w io.Writer) fang.ErrorHandler {
	return func(_ io.Writer, _ fang.Styles, err error) {
		if errors.Is(err, context.Canceled) && ExitCode(err) == ExitInterrupted {
			line(w, "interrupted")
			return
		}
		head, tail := "Error:", "Next:"
		if colored(w) {
			head, tail = "\x1b[1;31m"+head+"\x1b[0m", "\x1b[1m"+tail+"\x1b[0m"
		}
		line(w, head+" "+strings.TrimSpace(err.Error()))
		if next := advice(err); next != "" {
			line(w, tail+" "+next)
		}
	}
}

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && isatty.IsTerminal(f.Fd())
}

// colored reports whether w is a terminal whose user wants colors.
func colored(w io.Writer) bool { return terminal(w) && os.Getenv("NO_COLOR") == "" }

// line writes a line that nobody can help if it does not arrive.
func line(w io.Writer, s string) { _, _ = fmt.Fprintln(w, s) }
