// Bench measures Hutch and, beside it in the same run, the floor it stands on:
// the same image and the same agent in bare gVisor, and in plain runc where
// that works. `make bench` runs it; -h lists what can be chosen.
//
// It starts an installation of its own on loopback, or measures the one at
// -url. Everything it makes is gone when it ends, also after Ctrl-C.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
	"github.com/hutch-sh/hutch/test/e2e/installation"
)

type options struct {
	n, floors, small, large, resist, compute int

	only, modes      []string
	template         string
	json, quiet      bool
	url, key, data   string
	noGVisor, noRunc bool
}

func (o options) wants(name string) bool {
	return len(o.only) == 0 || slices.ContainsFunc(o.only, func(s string) bool { return strings.HasPrefix(name, s) })
}

func main() {
	var o options
	var only, modes string
	flag.IntVar(&o.n, "n", 1000, "lives of a sandbox: create, exec, kill; and samples of exec at the SDK")
	flag.IntVar(&o.floors, "floors", 200, "most samples of bare gVisor and of runc in a series")
	flag.IntVar(&o.small, "small", 100, "transfers of 1 MB each way")
	flag.IntVar(&o.large, "large", 10, "transfers of 100 MB each way")
	flag.IntVar(&o.resist, "resist", 50, "kills of a fork bomb, and of a spinner")
	flag.IntVar(&o.compute, "compute", 100, "sandboxes in each of ComputeSDK's modes")
	flag.StringVar(&only, "only", "", "only series whose names begin with one of these, separated by commas: create, first-exec, exec, kill-idle, kill-bomb, kill-spinner, file-1MB, file-100MB, sdk-exec, computesdk")
	flag.StringVar(&modes, "modes", "sequential,staggered,burst", "which of ComputeSDK's modes")
	flag.StringVar(&o.template, "template", "code-interpreter", "what sandboxes are made from")
	flag.BoolVar(&o.json, "json", false, "print one JSON object, with every sample, instead of tables")
	flag.BoolVar(&o.quiet, "quiet", false, "do not say on standard error what is being done")
	flag.StringVar(&o.url, "url", "", "measure the server there, with the key in HUTCH_API_KEY, instead of one of our own")
	flag.StringVar(&o.data, "data", "", "with -url: the server's data directory, for the floors' runtime and image")
	flag.BoolVar(&o.noGVisor, "no-gvisor", false, "leave bare gVisor out")
	flag.BoolVar(&o.noRunc, "no-runc", false, "leave runc out")
	flag.Parse()
	o.only, o.modes, o.key = list(only), list(modes), os.Getenv("HUTCH_API_KEY")

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func list(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(x string) bool { return x == "" })
}

// measure sets everything up, measures, prints, and takes everything down.
func measure(ctx context.Context, o options) (err error) {
	b := &bench{opts: o, systems: map[string]system{}, series: map[string]*series{}, say: func(string, ...any) {}}
	if !o.quiet {
		b.say = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format, args...) }
	}
	who := caller.Caller{URL: strings.TrimSuffix(o.url, "/"), Key: o.key, HTTP: caller.Fresh}
	data := o.data
	if o.url == "" {
		m, err := installation.New(ctx, installation.Options{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Close(ctx)) }()
		who, data = m.Caller(), m.Data
	}
	r := report{Machine: describe(ctx, data), Began: time.Now().UTC().Format(time.RFC3339)}
	b.systems[product] = hutch{who, o.template}
	down, notes, err := b.floors(ctx, data)
	r.Notes = append(r.Notes, notes...)
	defer func() { err = errors.Join(err, down()) }()
	if err != nil {
		return err
	}
	r.Failed = b.all(ctx, who, &r)
	for _, name := range b.order {
		r.Series = append(r.Series, b.series[name])
	}
	if o.json {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	} else {
		r.print(os.Stdout)
	}
	return errors.Join(r.Failed...)
}

// all measures everything that is wanted; what cannot be measured does not keep
// the rest from it.
func (b *bench) all(ctx context.Context, who caller.Caller, r *report) []error {
	var failed []error
	note := func(what string, err error) {
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", what, err))
		}
	}
	note("lives", b.lives(ctx))
	note("files", b.files(ctx))
	note("resistance", b.resistance(ctx))
	if !b.opts.wants("sdk-exec") && !b.opts.wants("computesdk") || ctx.Err() != nil {
		return failed
	}
	root, err := filepath.Abs(".")
	if err == nil {
		root, err = repository(root)
	}
	if err != nil {
		return append(failed, err)
	}
	c, err := newClients(ctx, root, who)
	if err != nil {
		r.Notes = append(r.Notes, "SKIP sdk-exec, computesdk: "+err.Error())
		return failed
	}
	if _, ok := b.systems[gvisor]; ok {
		note("sdk-exec", b.sdk(ctx, c))
	}
	r.Modes, err = b.computeSDK(ctx, c)
	note("computesdk", err)
	return failed
}

// repository is the directory at or above dir that holds go.mod.
func repository(dir string) (string, error) {
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("this is not run inside the repository")
		}
		dir = filepath.Dir(dir)
	}
}
