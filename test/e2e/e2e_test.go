// Package e2e runs real clients against a real installation: the unmodified
// packages of HopX and ComputeSDK from npm. The suites are in js/; this package
// starts what they need, reports each of their tests as a test of Go, and looks
// afterwards whether anything is left.
//
// Package installation says what it needs and reads (HUTCH_TEST_BINARY,
// HUTCH_TEST_DATA, HUTCH_TEST_LOG, HUTCH_TEST_REQUIRE). The suites read E2E_LIST,
// how many sandboxes the listing walks (120), and E2E_BIG_MIB, how large a large
// file is (50). To run them by hand against any server:
//
//	cd test/e2e/js && npm ci && BASE_URL=http://127.0.0.1:8080 HOPX_API_KEY=... npm test
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/installation"
)

// suiteLimit bounds one file of tests.
const suiteLimit = 15 * time.Minute

// TestSDK runs the suites of @hopx-ai/sdk.
func TestSDK(t *testing.T) {
	needs(t)
	packages(t)
	m := start(t, installation.Options{})
	for _, suite := range []string{"lifecycle", "code", "env", "files"} {
		t.Run(suite, func(t *testing.T) { node(t, m, suite, nil) })
	}
}

// TestComputeSDK runs the suite of computesdk and @computesdk/hopx under a
// domain with TLS: only there do these packages make addresses of ports.
func TestComputeSDK(t *testing.T) {
	needs(t)
	packages(t)
	d := newDomain(t, "hutch.test")
	m := start(t, installation.Options{Flags: d.flags, Scheme: "https", Host: d.name, Root: d.root})
	node(t, m, "compute", []string{"E2E_DOMAIN=" + d.name, "NODE_EXTRA_CA_CERTS=" + d.caFile})
}

func needs(t *testing.T) {
	t.Helper()
	installation.Need(t, installation.Missing())
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			installation.Need(t, program+" is not installed: the clients under test are npm packages")
		}
	}
}

// start starts an installation that ends, and leaves nothing, with the test.
func start(t *testing.T, opts installation.Options) *installation.Installation {
	t.Helper()
	m, err := installation.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error("installation:", err)
		}
	})
	return m
}

var install sync.Once

// packages installs what js/package-lock.json names, unless that was done.
func packages(t *testing.T) {
	t.Helper()
	install.Do(func() {
		lock, err := os.ReadFile("js/package-lock.json")
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(lock)
		want := hex.EncodeToString(sum[:])
		stamp := "js/node_modules/.hutch-lock"
		if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = "js"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
		if err := os.WriteFile(stamp, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat("js/node_modules/.hutch-lock"); err != nil {
		t.Fatal("the packages were not installed for an earlier test")
	}
}

// An outcome is one line of js/reporter.mjs.
type outcome struct {
	OK      bool
	Name    string
	Nesting int
	Suite   bool
	MS      float64
	Skip    string
	Why     string
	Output  string
}

// node runs one suite and reports each of its tests.
func node(t *testing.T, m *installation.Installation, suite string, env []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), suiteLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--require", "./resolve.cjs", "--test", "--test-concurrency=1",
		"--test-reporter", "./reporter.mjs", suite+".test.mjs")
	cmd.Dir = "js"
	cmd.Env = append(os.Environ(), "BASE_URL="+m.URL, "HOPX_API_KEY="+m.Key)
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, failed := report(t, bufio.NewScanner(out))
	err = cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("the suite did not end: %v", ctx.Err())
	}
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && (!ended || !failed) {
		t.Errorf("node: %v", err)
	}
	if n == 0 {
		t.Error("no test ran")
	}
	if t.Failed() {
		t.Logf("node said: %s\nthe server said: %s", complaint.String(), m.Log())
	}
}

// report makes a subtest of each test. The reporter prints a suite after its
// tests, so names are kept until their suite is known.
func report(t *testing.T, lines *bufio.Scanner) (n int, failed bool) {
	t.Helper()
	lines.Buffer(nil, 16<<20)
	type held struct {
		outcome
		within []string
	}
	waiting := map[int][]held{} // by depth
	show := func(h held) {
		if !h.OK {
			failed = true
		}
		if h.Suite && h.OK {
			return
		}
		n++
		t.Run(strings.Join(append(h.within, h.Name), "/"), func(t *testing.T) {
			if h.Skip != "" {
				t.Skip("SKIP: " + h.Skip)
			}
			t.Logf("%.0f ms", h.MS)
			if !h.OK {
				t.Error(h.Why)
			}
		})
	}
	for lines.Scan() {
		var o outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Logf("node: %s", lines.Text())
			continue
		}
		if o.Output != "" {
			t.Logf("node: %s", strings.TrimSpace(o.Output))
			continue
		}
		inner := waiting[o.Nesting+1]
		delete(waiting, o.Nesting+1)
		for i := range inner {
			inner[i].within = append([]string{o.Name}, inner[i].within...)
		}
		// A suite fails because of its tests; what it says itself counts only
		// if none of them did.
		if o.Suite && !o.OK && hasFailure(inner, func(h held) bool { return !h.OK }) {
			o.OK, failed = true, true
		}
		all := append(inner, held{outcome: o})
		if o.Nesting > 0 {
			waiting[o.Nesting] = append(waiting[o.Nesting], all...)
			continue
		}
		for _, h := range all {
			show(h)
		}
	}
	if err := lines.Err(); err != nil {
		t.Error("reading what node says:", err)
	}
	for _, rest := range waiting {
		for _, h := range rest {
			show(h)
		}
	}
	return n, failed
}

func hasFailure[T any](all []T, bad func(T) bool) bool {
	for _, x := range all {
		if bad(x) {
			return true
		}
	}
	return false
}

// TestSuitesListed fails when a suite exists that nothing runs.
func TestSuitesListed(t *testing.T) {
	files, err := filepath.Glob("js/*.test.mjs")
	if err != nil {
		t.Fatal(err)
	}
	ran := map[string]bool{"lifecycle": true, "code": true, "env": true, "files": true, "compute": true}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".test.mjs")
		if !ran[name] {
			t.Errorf("%s is not run by any test", f)
		}
		delete(ran, name)
	}
	for name := range ran {
		t.Errorf("there is no suite %s", name)
	}
}
