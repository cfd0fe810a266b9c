package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch/guest/pid1"
)

const usageText = `usage:
  hutch-agent init  --host-key KEY [--listen ADDRESS]   be process 1 of a sandbox: keep an agent alive
  hutch-agent serve --host-key KEY [--listen ADDRESS]   be the agent
KEY is the host's Ed25519 public key in base64url.
`

// Main is the program hutch-agent. It returns its exit code.
func Main(args []string) int {
	if len(args) < 2 || args[1] != "init" && args[1] != "serve" {
		fmt.Fprint(os.Stderr, usageText)
		return 2
	}
	o, err := parseOptions(args[1], args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if args[1] == "init" {
		return beInit(args[0], o)
	}
	if err := beAgent(o); err != nil {
		fmt.Fprintln(os.Stderr, "hutch-agent:", err)
		return 1
	}
	return 0
}

type options struct {
	key    ed25519.PublicKey
	rawKey string
	listen string
	linked bool // started by init
}

func parseOptions(command string, args []string) (options, error) {
	var o options
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.rawKey, "host-key", "", "")
	f.StringVar(&o.listen, "listen", "0.0.0.0:"+agentPort, "")
	if command == "serve" {
		f.BoolVar(&o.linked, "linked", false, "")
	}
	if err := f.Parse(args); err != nil {
		return o, fmt.Errorf("%w\n%s", err, usageText)
	}
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(o.rawKey, "="))
	if err != nil || len(key) != ed25519.PublicKeySize || f.NArg() > 0 {
		return o, errors.New("--host-key must be an Ed25519 public key in base64url\n" + usageText)
	}
	o.key = key
	return o, nil
}

// beInit is the life of process 1.
func beInit(arg0 string, o options) int {
	program := arg0
	if !filepath.IsAbs(program) {
		var err error
		if program, err = os.Executable(); err != nil {
			fmt.Fprintln(os.Stderr, "hutch-agent:", err)
			return 1
		}
	}
	runtime.GOMAXPROCS(1) // it has nothing to do, and threads count against the sandbox's limit
	return pid1.Run(pid1.Config{
		Program: program,
		Args:    []string{"serve", "--host-key", o.rawKey, "--listen", o.listen, "--linked"},
		Ready:   os.Stdout,
		Log:     os.Stderr,
	})
}

// beAgent is the life of an agent.
func beAgent(o options) (err error) {
	pid1.Seal()
	syscall.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Caught, not ignored: what is ignored stays ignored in the user's processes.
	unwanted := make(chan os.Signal, 1)
	signal.Notify(unwanted, syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)
	defer signal.Stop(unwanted)

	log := slog.New(slog.NewTextHandler(&throttle{w: os.Stderr}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	slog.SetDefault(log)
	cfg := Config{HostKey: o.key, Log: log}
	states := map[string][]byte{}
	var link *pid1.Link
	if o.linked {
		if link, states, err = pid1.OpenLink(pid1.LinkFD); err != nil {
			return err
		}
		defer link.Close()
		cfg.Keep = link.Keep
		cfg.Alone = os.Getppid() == 1
		// Without init the agent has no one to start it again, and no sandbox.
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			<-link.Gone() // also when the link is closed, below
			cancel()
		}()
	}
	a, err := New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if err := a.resume(states); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", o.listen)
	if err != nil {
		return err
	}
	if link != nil {
		if err := link.Ready(); err != nil {
			l.Close()
			return fmt.Errorf("tell init: %w", err)
		}
	}
	return a.Serve(ctx, l)
}

// A throttle passes on so much per minute: what a tenant can make the agent
// say must not fill the host's disk.
type throttle struct {
	w io.Writer

	mu    sync.Mutex
	until time.Time
	left  int
}

const (
	throttleSpan  = time.Minute
	throttleBytes = 32 << 10
)

// Write passes b on or drops it; it never fails, so that a host that has closed
// the pipe does not matter.
func (t *throttle) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.After(t.until) {
		t.until, t.left = now.Add(throttleSpan), throttleBytes
	}
	if t.left <= 0 {
		return len(b), nil
	}
	if t.left -= len(b); t.left <= 0 {
		b = append(bytes.Clone(b), "(more is dropped for a minute)\n"...)
	}
	_, _ = t.w.Write(b) // there is nowhere to report it
	return len(b), nil
}
