package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
)

// A bench measures all systems in turn, sample by sample, so that what the
// machine does meanwhile happens to all of them.
type bench struct {
	opts    options
	systems map[string]system
	series  map[string]*series
	order   []string
	say     func(format string, args ...any)
}

// of returns the series of that name, or nil if it is not wanted.
func (b *bench) of(name, means string, bounds ...bound) *series {
	if !b.opts.wants(name) {
		return nil
	}
	s := &series{Name: name, Means: means, bounds: bounds}
	b.series[name] = s
	b.order = append(b.order, name)
	return s
}

// put is add for a series that may be unwanted.
func (s *series) put(system string, d time.Duration, err error) {
	if s != nil {
		s.add(system, d, err)
	}
}

// share is how often a system takes part in n rounds: the floors need fewer
// samples for their medians than the product for its 99th percentile.
func (b *bench) share(name string, n int) int {
	if name == product {
		return n
	}
	return min(n, max(b.opts.floors, 1))
}

// each runs do for every system in every one of n rounds, each system as often
// as its share, spread evenly over the rounds.
func (b *bench) each(ctx context.Context, n int, do func(name string, s system)) error {
	for i := range n {
		for _, name := range systems {
			s, ok := b.systems[name]
			if share := b.share(name, n); !ok || (i+1)*share/n == i*share/n {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			do(name, s)
		}
		if (i+1)%max(1, n/10) == 0 {
			b.say("  %d of %d\n", i+1, n)
		}
	}
	return nil
}

// lives measures one life after another: create, first command, a command, kill.
func (b *bench) lives(ctx context.Context) error {
	create := b.of("create", "first byte of the request to the end of the answer; it answers when the agent did", timesBare(1.3, 0))
	first := b.of("first-exec", "the first `true` after that")
	exec := b.of("exec", "another `true`", timesBare(1.2, 2))
	kill := b.of("kill-idle", "the answer says that nothing is left", atMost(50, 60, 1000), atMost(99, 250, 1000), atMost(100, 1000, 1000))
	if create == nil && first == nil && exec == nil && kill == nil {
		return nil
	}
	b.say("create, exec and kill, %d times\n", b.opts.n)
	return b.each(ctx, b.opts.n, func(name string, s system) {
		c, took, err := s.make(ctx)
		create.put(name, took, err)
		if err != nil {
			return
		}
		took, err = run(ctx, c.sandbox(), "true")
		first.put(name, took, err)
		for range 3 {
			took, err = run(ctx, c.sandbox(), "true")
			exec.put(name, took, err)
		}
		took, err = end(ctx, c)
		kill.put(name, took, err)
	})
}

// end kills a cell, also when ctx has ended.
func end(ctx context.Context, c cell) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return c.kill(ctx)
}

// run times one command.
func run(ctx context.Context, sb *caller.Sandbox, line string) (time.Duration, error) {
	begin := time.Now()
	r, err := sb.Shell(ctx, line, 30*time.Second)
	took := time.Since(begin)
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("%s exited %d: %s", line, r.ExitCode, r.Stderr)
	}
	return took, err
}

// files measures uploads and downloads in one cell of each system.
func (b *bench) files(ctx context.Context) error {
	type size struct {
		mb, n    int
		up, down *series
	}
	var sizes []*size
	for _, s := range []*size{{mb: 1, n: b.opts.small}, {mb: 100, n: b.opts.large}} {
		s.up = b.of(fmt.Sprintf("file-%dMB-up", s.mb), fmt.Sprintf("multipart upload of %d MB", s.mb))
		s.down = b.of(fmt.Sprintf("file-%dMB-down", s.mb), fmt.Sprintf("download of %d MB", s.mb))
		if s.up != nil || s.down != nil {
			sizes = append(sizes, s)
		}
	}
	if len(sizes) == 0 {
		return nil
	}
	cells := map[string]cell{}
	var errs []error
	for name, s := range b.systems {
		c, _, err := s.make(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		cells[name] = c
	}
	defer func() {
		for name, c := range cells {
			if _, err := end(ctx, c); err != nil {
				b.say("%s: %v\n", name, err)
			}
		}
	}()
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, s := range sizes {
		b.say("files of %d MB, %d times\n", s.mb, s.n)
		data := bytes.Repeat([]byte("0123456789abcdef"), s.mb<<16)
		err := b.each(ctx, s.n, func(name string, _ system) {
			sb := cells[name].sandbox()
			took, err := upload(ctx, sb, "/workspace/bench.bin", data)
			s.up.put(name, took, err)
			took, err = download(ctx, sb, "/workspace/bench.bin", int64(len(data)))
			s.down.put(name, took, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func upload(ctx context.Context, sb *caller.Sandbox, path string, data []byte) (time.Duration, error) {
	var head bytes.Buffer
	w := multipart.NewWriter(&head)
	if err := w.WriteField("path", path); err != nil {
		return 0, err
	}
	if _, err := w.CreateFormFile("file", "bench.bin"); err != nil {
		return 0, err
	}
	split := head.Len()
	if err := w.Close(); err != nil {
		return 0, err
	}
	whole := head.Bytes()
	body := bytes.Join([][]byte{whole[:split], data, whole[split:]}, nil)
	a, err := sb.Agent(ctx, http.MethodPost, "/files/upload", body, "Content-Type", w.FormDataContentType())
	if err == nil && a.Status != http.StatusOK {
		err = errors.New(a.String())
	}
	return a.Took, err
}

// download reads a file without keeping it.
func download(ctx context.Context, sb *caller.Sandbox, path string, want int64) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(sb.Host, "/")+"/files/download?path="+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+sb.Token)
	begin := time.Now()
	resp, err := sb.Caller.HTTP.Do(req)
	if err != nil {
		return time.Since(begin), err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	took := time.Since(begin)
	if err == nil && (resp.StatusCode != http.StatusOK || n != want) {
		err = fmt.Errorf("%s, %d bytes of %d", resp.Status, n, want)
	}
	return took, err
}

// settle lets a program get going before it says so. It needs no process, of
// which there may be none to be had by then.
const settle = `mkfifo /tmp/wait; exec 9<>/tmp/wait; `
const settled = `; read -t 1 -u 9; : > /tmp/up; wait`

// resisting are programs that do not want to end.
var resisting = []struct{ name, means, line string }{
	{"kill-bomb", "kill of a fork bomb that has all the processes there are", settle + `b() { b | b & }; b` + settled},
	{"kill-spinner", "kill of four endless loops", settle + `for i in 1 2 3 4; do while :; do :; done & done` + settled},
}

func (b *bench) resistance(ctx context.Context) error {
	for _, r := range resisting {
		s := b.of(r.name, r.means, atMost(99, 1000, 300), atMost(100, 5000, 300))
		if s == nil {
			continue
		}
		b.say("%s, %d times\n", r.means, b.opts.resist)
		err := b.each(ctx, b.opts.resist, func(name string, sys system) {
			c, _, err := sys.make(ctx)
			if err != nil {
				s.put(name, 0, err)
				return
			}
			err = provoke(ctx, c.sandbox(), r.line)
			took, killed := end(ctx, c)
			s.put(name, took, errors.Join(err, killed))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// provoke starts a program and returns when it is at it. An agent that cannot
// answer for it is at it too.
func provoke(ctx context.Context, sb *caller.Sandbox, line string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := sb.Start(ctx, line); err != nil {
		return err
	}
	for {
		a, err := sb.Agent(ctx, http.MethodGet, "/files/exists?path=/tmp/up", nil)
		if err != nil || a.Status != http.StatusOK || a.Field("exists") == true {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond): // the guest announces nothing
		}
	}
}
