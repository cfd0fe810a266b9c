package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/cli"
	"github.com/hutch-sh/hutch/cluster"
	"github.com/hutch-sh/hutch/control/lifecycle"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/gateway"
	"github.com/hutch-sh/hutch/host"
	"github.com/hutch-sh/hutch/host/driver/gvisor"
	"github.com/hutch-sh/hutch/host/image"
	"github.com/hutch-sh/hutch/host/network"
	"golang.org/x/sys/unix"
)

// soloHost is the id of the one host of a server that is its own cluster.
const soloHost hutch.HostID = "local"

// A machine is the control plane and the host of one data directory, without
// the listener: what serving and killing offline have in common.
type machine struct {
	data      dataDir
	db        *store.DB
	driver    *gvisor.Driver
	network   *network.Net
	host      *host.Host
	manager   *lifecycle.Manager
	templates int // how many are ready

	cut   atomic.Pointer[gateway.Gateway] // told of every end, once there is one
	close func()
}

// openMachine opens everything below the listener, adopting the sandboxes of an
// earlier run. The caller holds the lock and calls close.
func openMachine(ctx context.Context, data dataDir, cfg cli.Serve, log *slog.Logger) (_ *machine, err error) {
	m := &machine{data: data}
	var closers []func() error
	m.close = func() {
		for i := len(closers) - 1; i >= 0; i-- {
			if err := closers[i](); err != nil {
				log.Error("not closed", "err", err)
			}
		}
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.db, err = data.openStore(ctx); err != nil {
		return nil, err
	}
	closers = append(closers, m.db.Close)
	tokenKey, err := data.signingKey("token")
	if err != nil {
		return nil, err
	}
	solo := &cluster.Solo{ID: soloHost}
	m.manager = lifecycle.New(lifecycle.Config{
		Store: m.db, Hosts: solo, Host: soloHost, TokenKey: tokenKey,
		MaxSandboxes: cmp.Or(cfg.MaxSandboxes, sandboxesThatFit()), MaxTimeout: cfg.MaxTimeout, Grace: cfg.DeleteGrace,
		MaxStarting: 2 * runtime.NumCPU(), // a start is processor time; more at once only wait for each other
		OnEnd:       m.onEnd, Log: log,
	})
	if err := m.openHost(ctx, cfg, log, &closers); err != nil {
		return nil, err
	}
	solo.Local = m.host
	return m, nil
}

func (m *machine) openHost(ctx context.Context, cfg cli.Serve, log *slog.Logger, closers *[]func() error) error {
	tag, err := m.data.tag()
	if err != nil {
		return err
	}
	runsc, agent, err := m.data.programs()
	if err != nil {
		return err
	}
	hostKey, err := m.data.signingKey("host")
	if err != nil {
		return err
	}
	extraCA, err := readIfNamed(cfg.ExtraCA)
	if err != nil {
		return err
	}
	images, err := image.Open(m.data.path("images"), image.Options{ExtraCA: cfg.ExtraCA, Log: log})
	if err != nil {
		return err
	}
	if m.templates, err = registerAll(ctx, m.db, images); err != nil {
		return err
	}
	if m.network, err = network.Open(ctx, network.Config{
		Tag: tag, Dir: m.data.path("network"), Subnet: cfg.Subnet, Allow: cfg.AllowCIDR, Resolvers: cfg.DNS, Log: log,
	}); err != nil {
		return err
	}
	*closers = append(*closers, m.closeNetwork, m.watchNetwork(log))
	if m.driver, err = gvisor.New(gvisor.Config{Runsc: runsc, Tag: tag}); err != nil {
		return err
	}
	*closers = append(*closers, m.driver.Close)
	news := context.WithoutCancel(ctx)
	m.host, err = host.Open(ctx, host.Config{
		ID: soloHost, Dir: m.data.path("host"), Driver: m.driver, Network: m.network, Images: images,
		Guest: host.NewAgent(hostKey), Key: hostKey, Agent: agent, ExtraCA: extraCA,
		News: func(f hutch.Fact) { m.manager.News(news, f) }, Log: log,
	})
	if err != nil {
		return err
	}
	*closers = append(*closers, func() error { m.host.Close(); return nil })
	return nil
}

// closeNetwork leaves the filter in force for sandboxes that live on. Without
// any, the machine is left as it was found.
func (m *machine) closeNetwork() error {
	n, err := m.living()
	if err == nil && n == 0 {
		err = m.network.Purge()
	}
	return errors.Join(err, m.network.Close())
}

// watchNetwork keeps the filter in force until the result is called.
func (m *machine) watchNetwork(log *slog.Logger) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := m.network.Watch(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error("the network filter is not watched any more: restart the server", "err", err)
		}
		done <- nil
	}()
	return func() error { cancel(); return <-done }
}

// adopt tells the manager what the host holds.
func (m *machine) adopt(ctx context.Context) error {
	inventory, err := m.host.Inventory(ctx)
	if err != nil {
		return err
	}
	return m.manager.Adopt(ctx, soloHost, inventory)
}

// run does the housekeeping until stop is called; stop waits for it, a while.
func (m *machine) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.manager.Run(ctx)
	}()
	return func() {
		cancel()
		select {
		case <-done:
		case <-time.After(drainTime):
			// A disk that takes long to save: the order stands, and the next
			// start carries it.
		}
	}
}

// onEnd cuts a sandbox that is ending off from its users.
func (m *machine) onEnd(id hutch.SandboxID) {
	if gw := m.cut.Load(); gw != nil {
		gw.Cut(id)
	}
}

// living counts the sandboxes that are there.
func (m *machine) living() (int, error) {
	live, err := m.db.Live(context.Background(), soloHost)
	n := 0
	for _, sb := range live {
		if sb.Alive() {
			n++
		}
	}
	return n, err
}

// sandboxesThatFit is how many sandboxes may live when nobody said: idle ones
// need some 20 MiB, working ones much more, and memory is shared on purpose.
func sandboxesThatFit() int {
	const each = 96 << 20
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0 // the lifecycle's own default
	}
	return int(info.Totalram * uint64(info.Unit) / each)
}

func readIfNamed(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	return string(data), err
}

// killOffline ends sandboxes of a data directory that no server is using.
func killOffline(ctx context.Context, dir string, ids []string, report func(id string, err error)) error {
	data, err := openData(dir)
	if err != nil {
		return err
	}
	lock, err := data.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	log := slog.New(slog.DiscardHandler)
	m, err := openMachine(ctx, data, cli.Serve{}, log)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.adopt(ctx); err != nil {
		return err
	}
	stop := m.run() // ends orphans, and what is slow to die
	defer stop()
	if len(ids) == 0 {
		results := make(chan error, 1)
		results <- nil // one report at a time
		err := m.manager.KillAll(ctx, hutch.ByDrain, func(id hutch.SandboxID, err error) {
			e := <-results
			report(string(id), err)
			results <- e
		})
		return err
	}
	for _, id := range ids {
		report(id, m.killOne(ctx, hutch.SandboxID(id)))
	}
	return nil
}

func (m *machine) killOne(ctx context.Context, id hutch.SandboxID) error {
	if !id.Valid() {
		return &hutch.Error{Kind: hutch.NotFound, Msg: fmt.Sprintf("%q is not a sandbox id", id)}
	}
	sb, err := m.db.Find(ctx, id)
	if err != nil {
		return err
	}
	return m.manager.Kill(ctx, sb.Org, id)
}
