// Package guest is the agent inside a sandbox: it serves the sandbox's user
// over HTTP and obeys the host over the handshake. It owns the listener, the
// routes, who may call them, and the order in which the abilities below it are
// used. It must not know the control plane, other sandboxes or any secret: it
// checks tokens with a public key.
package guest

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hutch-sh/hutch/api"
	"github.com/hutch-sh/hutch/guest/environment"
	"github.com/hutch-sh/hutch/guest/process"
)

// Name and Version are what the agent calls itself.
const (
	Name    = "hutch-agent"
	Version = "1.0.0"
)

// Times of the HTTP server. Clients reuse idle connections for seconds and do
// not forgive one that is closed under them.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	bodyTimeout   = time.Minute     // without a byte of the body
	answerTimeout = 2 * time.Minute // to take an answer that is ready
	maxHeader     = 64 << 10
)

// Config says where the agent is and how much it may use. Zero values are
// replaced by what holds in a sandbox.
type Config struct {
	HostKey   ed25519.PublicKey // of the host whose handshakes are obeyed
	Root      string            // below which system files lie; "" is the root itself
	Workspace string            // default working directory; default "/workspace"
	TempDir   string            // for code on its way to an interpreter; default "/tmp"
	Protected []string          // directories that cannot be removed; default "/.hutch"
	Alone     bool              // every process but init and the agent is a user's
	Output    int               // bytes kept of each output stream; default 10 MiB

	// Keep hands data under a name to the agent that takes over after this one.
	// May be nil.
	Keep func(name string, data []byte) error

	Log *slog.Logger
	Now func() time.Time // default time.Now
}

// An Agent serves one sandbox. Close it.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	routes  *router
	handler http.Handler
	jobs    *process.Table
	env     *environment.Layers
	metrics *metrics
	cpu     cpuMeter
	langs   languageCache
	born    time.Time

	identity atomic.Pointer[identity]
	verified atomic.Pointer[verifiedToken]

	syncing     sync.WaitGroup
	introducing sync.Mutex // held while an identity is set up: one at a time
	keeping     sync.Mutex // held while the environment is handed to Keep, so that the last one kept is the newest
}

// New returns an agent without an identity: it answers 503 until the host has
// sent one.
func New(cfg Config) (*Agent, error) {
	if len(cfg.HostKey) != ed25519.PublicKeySize {
		return nil, errors.New("the host's public key must have 32 bytes")
	}
	cfg.Workspace = cmp.Or(cfg.Workspace, "/workspace")
	cfg.TempDir = cmp.Or(cfg.TempDir, "/tmp")
	if cfg.Protected == nil {
		cfg.Protected = []string{"/.hutch"}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Keep == nil {
		cfg.Keep = func(string, []byte) error { return nil }
	}
	jobs, err := process.New(process.Config{Limit: cfg.Output, Alone: cfg.Alone, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log, jobs: jobs, born: time.Now(),
		env: environment.New(baseEnv()), metrics: newMetrics(),
	}
	a.routes = newRouter(a.table())
	a.handler = api.Adopt(a.log, http.HandlerFunc(a.serve))
	return a, nil
}

// baseEnv is the environment of a sandbox that nobody has set anything in.
func baseEnv() map[string]string {
	shell := "/bin/bash"
	if _, err := os.Stat(shell); err != nil {
		shell = "/bin/sh"
	}
	return map[string]string{
		"PATH": environment.DefaultPath, "HOME": "/root", "USER": "root", "LOGNAME": "root", "LANG": "C.UTF-8", "SHELL": shell,
	}
}

// Handler returns what serves the agent's port.
func (a *Agent) Handler() http.Handler { return a.handler }

// Serve answers on l until ctx ends; then it lets answers under way finish for
// a moment. It always closes l.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           a.handler,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug), // what clients do wrong
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		err = srv.Close()
	}
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// Close kills what the agent's user has running and releases everything.
func (a *Agent) Close() error {
	err := a.jobs.Close()
	a.syncing.Wait()
	return err
}

// now is the host's time: a restored guest's own clock may be off.
func (a *Agent) now() time.Time {
	if id := a.identity.Load(); id != nil {
		return a.cfg.Now().Add(id.skew)
	}
	return a.cfg.Now()
}

func (a *Agent) timestamp() api.Time { return api.Time{Time: a.now()} }

// workdir returns the directory an execution is to start in, and makes it if it
// is missing.
//
// HopX's clients always ask for /workspace, whatever the template says. So that
// default gives way to a working directory the template declares.
func (a *Agent) workdir(asked string) (string, error) {
	home := a.home()
	dir := home
	if asked != "" {
		resolved, err := resolve(asked, home)
		if err != nil {
			return "", err
		}
		if resolved != filepath.Clean(a.cfg.Workspace) {
			dir = resolved
		}
	}
	return dir, makeWorkdir(dir)
}

// home is the directory relative paths start from.
func (a *Agent) home() string {
	if id := a.identity.Load(); id != nil && id.Workdir != "" {
		return id.Workdir
	}
	return a.cfg.Workspace
}
