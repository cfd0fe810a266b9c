// Package conformance holds an installation of Hutch against its contract from
// outside: by URL, with a key, knowing nothing else. It sees what users see.
//
// With HUTCH_URL and HUTCH_API_KEY it tests that installation; otherwise it
// starts one of its own. Tests that must look at the machine (processes,
// cgroups, the server's own death) run only on one of its own, and say so.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
	"github.com/hutch-sh/hutch/test/e2e/installation"
	"github.com/hutch-sh/hutch/test/e2e/ledger"
)

// one is the installation that the tests of this package share.
var one struct {
	sync.Once
	own *installation.Installation
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if one.own != nil {
		if err := one.own.Close(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "installation:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// target is a caller of the installation under test.
func target(t *testing.T) caller.Caller {
	t.Helper()
	if url := os.Getenv("HUTCH_URL"); url != "" {
		return caller.Caller{URL: strings.TrimSuffix(url, "/"), Key: os.Getenv("HUTCH_API_KEY"), HTTP: caller.Fresh}
	}
	return machine(t).Caller()
}

// machine is the installation of our own, for tests that look beneath it.
func machine(t *testing.T) *installation.Installation {
	t.Helper()
	if os.Getenv("HUTCH_URL") != "" {
		t.Skip("SKIP: looks at the machine, and HUTCH_URL may be another")
	}
	installation.Need(t, installation.Missing())
	one.Do(func() { one.own, one.err = installation.New(context.Background(), installation.Options{}) })
	if one.err != nil {
		t.Fatal("installation:", one.err)
	}
	if one.own == nil {
		t.Fatal("the installation did not start for an earlier test")
	}
	return one.own
}

// must returns v, or fails the test.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// made creates a sandbox that is gone when the test is over.
func made(t *testing.T, who caller.Caller, fields map[string]any) *caller.Sandbox {
	t.Helper()
	sb, _, err := who.Create(t.Context(), "base", fields)
	if err != nil {
		t.Fatal(err)
	}
	ends(t, sb)
	return sb
}

// ends kills a sandbox when the test is over.
func ends(t *testing.T, sb *caller.Sandbox) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		a, err := sb.Verb(ctx, "kill")
		if err != nil || a.Status != 200 && a.Status != 404 {
			t.Errorf("cleaning up %s: %v %v", sb.ID, a, err)
		}
	})
}

// until waits for a condition that nothing announces.
func until(t *testing.T, what string, within time.Duration, is func() (bool, error)) {
	t.Helper()
	if err := poll(deadline(t, within), is); err != nil {
		t.Fatalf("%s: not within %v: %v", what, within, err)
	}
}

// poll asks until it is so, or ctx ends; then it returns the last reason.
func poll(ctx context.Context, is func() (bool, error)) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		ok, err := is()
		if ok {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// pass lets time pass, where that is what is tested.
func pass(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// snapshot counts everything the installation holds.
func snapshot(t *testing.T, m *installation.Installation) ledger.Snapshot {
	t.Helper()
	return must[ledger.Snapshot](t)(m.Scope().Take(t.Context()))
}

// nothingOf fails if the machine still holds anything of a sandbox whose end
// was just answered. It looks once: 200 means gone.
func nothingOf(t *testing.T, m *installation.Installation, base ledger.Snapshot, ids ...string) {
	t.Helper()
	now := snapshot(t, m)
	for _, l := range now.Mentions(ids...) {
		t.Errorf("of a killed sandbox: %s", l)
	}
	for _, l := range base.Left(now, ledger.Instant...) {
		t.Errorf("left at the answer: %s", l)
	}
}

// envelope fails unless a is an error of the control plane with this status
// and one of these codes, in the documented shape.
func envelope(t *testing.T, a caller.Answer, status int, codes ...string) {
	t.Helper()
	if a.Status != status {
		t.Errorf("status: %s, want %d", a, status)
		return
	}
	if ct := a.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
		t.Errorf("content type %q", ct)
	}
	for _, field := range []string{"error", "message", "code", "request_id"} {
		if a.Text(field) == "" {
			t.Errorf("%s is not a text in %s", field, a)
		}
	}
	if _, ok := a.Field("details").(map[string]any); !ok {
		t.Errorf("details is not an object in %s", a)
	}
	if len(codes) > 0 && !slices.Contains(codes, a.Text("code")) {
		t.Errorf("code %q, want one of %q", a.Text("code"), codes)
	}
	if id := a.Header.Get("X-Request-ID"); id == "" || id != a.Text("request_id") {
		t.Errorf("X-Request-ID %q and request_id %q differ", id, a.Text("request_id"))
	}
}

// deadline bounds a wait within the test's own context.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
