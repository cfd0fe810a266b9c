package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hutch-sh/hutch"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, ExitOK},
		{errors.New("anything"), ExitFailure},
		{usage("wrong"), ExitUsage},
		{context.Canceled, ExitInterrupted},
		{fmt.Errorf("while: %w", context.Canceled), ExitInterrupted},
		{context.DeadlineExceeded, ExitTimeout},
		{&statusError{status: http.StatusBadRequest}, ExitUsage},
		{&statusError{status: http.StatusUnauthorized}, ExitAuth},
		{&statusError{status: http.StatusForbidden}, ExitFailure},
		{&statusError{status: http.StatusNotFound}, ExitNotFound},
		{&statusError{status: http.StatusConflict}, ExitFailure},
		{&statusError{status: http.StatusTooManyRequests}, ExitRateLimit},
		{&statusError{status: http.StatusServiceUnavailable}, ExitFailure},
		{&hutch.Error{Kind: hutch.NotFound}, ExitNotFound},
		{&hutch.Error{Kind: hutch.Invalid}, ExitUsage},
		{&hutch.Error{Kind: hutch.Timeout}, ExitTimeout},
		{&hutch.Error{Kind: hutch.Internal}, ExitFailure},
		{&failure{what: "no", code: ExitNetwork}, ExitNetwork},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"never":   {},
		"12h":     now.Add(12 * time.Hour),
		"30d":     now.AddDate(0, 0, 30),
		"2weeks":  now.AddDate(0, 0, 14),
		"1month":  now.AddDate(0, 1, 0),
		"6months": now.AddDate(0, 6, 0),
		"1year":   now.AddDate(1, 0, 0),
	} {
		if got, err := expiry(in, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "soon", "0d", "-1h", "-3d", "5", "d", "1 d", "99999d", "1e3d", "٣d"} {
		if got, err := expiry(in, now); err == nil {
			t.Errorf("%q: %v, want an error", in, got)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 250 << 20: "250.0 MiB", 1000 << 20: "1.0 GiB", 3 << 40: "3.0 TiB", 5000 << 40: "5000.0 TiB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestNameOf(t *testing.T) {
	for ref, want := range map[string]string{
		"python": "python", "python:3.13-slim": "python", "ghcr.io/a/b/Tools:v1": "tools",
		"localhost:5000/x": "x", "r.example/x@sha256:00": "x", "r.example:443/x:v1@sha256:00": "x",
	} {
		if got := nameOf(ref); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
}

func TestServerFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadServerFile(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	want := ServerFile{URL: "http://127.0.0.1:8080", AdminKey: "secret", PID: 7, Version: "v1", Started: time.Unix(1e9, 0).UTC()}
	for range 2 { // a restart writes over it
		if err := WriteServerFile(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ReadServerFile(dir); err != nil || got != want {
		t.Errorf("got %+v %v, want %+v", got, err, want)
	}
	info, err := os.Stat(filepath.Join(dir, serverFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v): others could read the key", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files left (%v)", len(entries), err)
	}
	for range 2 {
		if err := RemoveServerFile(dir); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, serverFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadServerFile(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("damaged: %v", err)
	}
}

// TestProgressOnTerminal checks that one line is redrawn, that every finished
// step keeps its line, and that an interrupted one leaves the cursor below it.
func TestProgressOnTerminal(t *testing.T) {
	defer goleak.VerifyNone(t)
	var out bytes.Buffer
	p := newProgress(&out, true)
	p.Report(Progress{Template: "base", Step: 1, Steps: 2, Name: "fetch"})
	p.Report(Progress{Template: "base", Step: 1, Steps: 2, Name: "fetch", Done: true})
	p.Report(Progress{Template: "base", Step: 2, Steps: 2, Name: "write", Bytes: 1 << 20, Total: 2 << 20})
	p.Close()
	got := out.String()
	for _, want := range []string{
		"\r\x1b[Kbase 1/2 fetch",
		"\r\x1b[Kbase 1/2 fetch  done in 0s\n",
		"\r\x1b[Kbase 2/2 write  1.0 MiB of 2.0 MiB",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if !strings.HasSuffix(got, "\n") {
		t.Errorf("the cursor is left behind %q", got)
	}
}
