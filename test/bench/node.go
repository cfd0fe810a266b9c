package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
)

// clients runs what is timed through HopX's and ComputeSDK's own packages.
type clients struct {
	dir string // of the scripts and their packages
	env []string
}

// newClients installs the packages that the lock file names, if they are not.
func newClients(ctx context.Context, repository string, who caller.Caller) (*clients, error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is not installed", program)
		}
	}
	c := &clients{
		dir: filepath.Join(repository, "test", "bench", "computesdk"),
		env: []string{"BASE_URL=" + who.URL, "HOPX_API_KEY=" + who.Key},
	}
	lock, err := os.ReadFile(filepath.Join(c.dir, "package-lock.json"))
	if err != nil {
		return nil, err
	}
	stamp := filepath.Join(c.dir, "node_modules", ".hutch-lock")
	if have, err := os.ReadFile(stamp); err == nil && bytes.Equal(have, lock) {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = c.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("npm ci: %w: %s", err, out)
	}
	return c, os.WriteFile(stamp, lock, 0o600)
}

// run runs one script and reads the JSON object it prints.
func (c *clients) run(ctx context.Context, script string, into any, env ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", script)
	cmd.Dir = c.dir
	cmd.Env = slices.Concat(os.Environ(), c.env, env)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, complaint.String())
	}
	// The SDK itself may print before.
	text := strings.TrimSpace(out.String())
	return json.Unmarshal([]byte(text[strings.LastIndexByte(text, '\n')+1:]), into)
}

// sdk measures a command at the SDK, the product and the floor in turns.
func (b *bench) sdk(ctx context.Context, c *clients) error {
	s := b.of("sdk-exec", "`true` as a caller of @hopx-ai/sdk sees it", timesBare(1.2, 2))
	if s == nil {
		return nil
	}
	floor, ok := b.systems[gvisor]
	if !ok {
		return errors.New("sdk-exec needs the floor")
	}
	b.say("exec at the SDK, %d times\n", b.opts.n)
	bare, _, err := floor.make(ctx)
	if err != nil {
		return err
	}
	var got struct{ Hutch, Bare []float64 }
	err = c.run(ctx, "exec.mjs", &got, "BENCH_TEMPLATE="+b.opts.template, "BENCH_COUNT="+strconv.Itoa(b.opts.n),
		"BENCH_FLOOR="+bare.sandbox().Host, "BENCH_TOKEN="+bare.sandbox().Token)
	_, ended := end(ctx, bare)
	s.of(product).MS, s.of(gvisor).MS = got.Hutch, got.Bare
	return errors.Join(err, ended)
}

// computeSDK runs the three modes of ComputeSDK's public benchmark.
func (b *bench) computeSDK(ctx context.Context, c *clients) ([]*mode, error) {
	if !b.opts.wants("computesdk") {
		return nil, nil
	}
	var modes []*mode
	for _, name := range []string{"sequential", "staggered", "burst"} {
		if !slices.Contains(b.opts.modes, name) {
			continue
		}
		b.say("ComputeSDK %s, %d sandboxes\n", name, b.opts.compute)
		m := &mode{Name: name}
		err := c.run(ctx, "modes.mjs", m, "BENCH_MODE="+name, "BENCH_COUNT="+strconv.Itoa(b.opts.compute), "BENCH_STAGGER_MS=200")
		if err != nil {
			return modes, err
		}
		m.sum()
		modes = append(modes, m)
	}
	return modes, nil
}
