// Package installation starts real installations of Hutch for tests and
// benchmarks: the built binary, a data directory of its own, a free loopback
// port. It ends what it started, and proves with a ledger that nothing is left.
//
// It knows the program by its command line and its names for kernel objects,
// as an operator does, and must not import it.
package installation

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch/test/e2e/caller"
	"github.com/hutch-sh/hutch/test/e2e/ledger"
)

// Environment variables this package reads.
const (
	EnvBinary  = "HUTCH_TEST_BINARY"  // the program; bin/hutch of this repository if unset
	EnvRequire = "HUTCH_TEST_REQUIRE" // if set, a test that cannot run fails instead of being skipped
	EnvData    = "HUTCH_TEST_DATA"    // a data directory with prepared templates; see Prepared
	EnvLog     = "HUTCH_TEST_LOG"     // file that servers' output is appended to; one beside the data if unset
)

// Options say how an installation differs from a plain one.
type Options struct {
	Flags []string // more flags for serve
	Env   []string // more environment, as NAME=VALUE

	// KeepOnExit lets sandboxes outlive a server that is told to end. Without
	// it a test that dies takes its sandboxes along.
	KeepOnExit bool

	// With a domain the server speaks TLS: Scheme is "https", Host the domain,
	// and Root trusts its certificate. Plain HTTP on loopback otherwise.
	Scheme, Host string
	Root         *x509.CertPool
}

// An Installation is one data directory and the server on it.
type Installation struct {
	URL  string
	Key  string
	Data string

	binary string
	dir    string // of everything: the data, temporary files
	listen string
	debug  string // where the server shows its goroutines
	opts   Options
	subnet netip.Prefix // of its sandboxes, known from the first start

	mu     sync.Mutex
	server *server // nil while none runs
}

// server is one run of the program.
type server struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been waited for
	err   error         // what Wait said; valid once ended is closed
}

// readyLimit is how long a server may take to answer its health check.
const readyLimit = 30 * time.Second

// New makes a data directory on the prepared templates and starts a server on
// it. On error nothing is left.
func New(ctx context.Context, opts Options) (*Installation, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	prepared, err := Prepared()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hutch-test-")
	if err != nil {
		return nil, err
	}
	i := &Installation{binary: binary, dir: dir, opts: opts, Data: filepath.Join(dir, "data"), Key: newKey()}
	err = i.lay(prepared)
	if err == nil {
		err = i.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, i.Close(ctx))
	}
	return i, nil
}

// newKey returns a key of the documented shape.
func newKey() string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var id [12]byte
	var secret [32]byte
	rand.Read(id[:])
	rand.Read(secret[:])
	for i := range id {
		id[i] = digits[int(id[i])%len(digits)]
	}
	return "hopx_live_" + string(id[:]) + "." + base64.RawURLEncoding.EncodeToString(secret[:])
}

// Start starts a server on the data directory and waits until it answers.
func (i *Installation) Start(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server != nil {
		return errors.New("a server runs already")
	}
	if i.listen == "" {
		var err error
		if i.listen, err = freeAddress(); err != nil {
			return err
		}
		if i.debug, err = freeAddress(); err != nil {
			return err
		}
		i.URL = "http://" + i.listen
		if i.opts.Scheme != "" {
			_, port, err := net.SplitHostPort(i.listen)
			if err != nil {
				return err
			}
			i.URL = i.opts.Scheme + "://" + net.JoinHostPort(i.opts.Host, port)
			i.opts.Flags = append(i.opts.Flags, "--public-url", i.URL)
		}
	}
	args := append([]string{"serve", "--listen", i.listen, "--data", i.Data, "--debug-listen", i.debug,
		"--creates-per-minute", "100000", "--requests-per-minute", "1000000"}, i.opts.Flags...)
	if !i.opts.KeepOnExit {
		args = append(args, "--kill-on-exit")
	}
	s, err := i.run(args)
	if err != nil {
		return err
	}
	i.server = s
	if err := i.ready(ctx, s); err != nil {
		return fmt.Errorf("%w; it said:\n%s", err, i.tail(4000))
	}
	i.subnet, err = i.readSubnet()
	return err
}

// freeAddress returns a loopback address whose port was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// run starts the program so that it ends with this process: a test that is
// killed takes its server along, and that its sandboxes.
func (i *Installation) run(args []string) (*server, error) {
	cmd := exec.Command(i.binary, args...)
	cmd.Env = append(os.Environ(), "HUTCH_API_KEY="+i.Key, "TMPDIR="+i.temp())
	cmd.Env = append(cmd.Env, i.opts.Env...)
	log, err := i.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	s := &server{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal is bound to the thread that starts the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.err = cmd.Wait()
			close(s.ended)
		}
	}()
	return s, <-started
}

func (i *Installation) ready(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	who := i.Caller()
	for {
		a, err := who.Do(ctx, http.MethodGet, "/health", nil)
		if err == nil && a.Status == http.StatusOK {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the server ended: %w", s.err)
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond): // nothing announces a listener
		}
	}
}

// PID is the server's process id, 0 while none runs.
func (i *Installation) PID() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server == nil {
		return 0
	}
	return i.server.cmd.Process.Pid
}

// Signal sends sig to the server and returns how long it took to end.
func (i *Installation) Signal(ctx context.Context, sig syscall.Signal) (time.Duration, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server == nil {
		return 0, errors.New("no server runs")
	}
	begin := time.Now()
	if err := i.server.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	select {
	case <-i.server.ended:
	case <-ctx.Done():
		return time.Since(begin), fmt.Errorf("the server does not end: %w", ctx.Err())
	}
	i.server = nil
	return time.Since(begin), nil
}

// Caller is the default organization's caller, one connection a request.
func (i *Installation) Caller() caller.Caller {
	c := caller.Caller{URL: i.URL, Key: i.Key, HTTP: caller.Fresh}
	if i.opts.Root != nil {
		c.HTTP = &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: i.opts.Root, MinVersion: tls.VersionTLS12},
			// Every name of the domain leads here, as a wildcard record has it.
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, i.listen)
			},
		}}
	}
	return c
}

// Run runs one of the program's other commands and returns what it printed.
func (i *Installation) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, i.binary, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+i.temp())
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("hutch %s: %w: %s%s", strings.Join(args, " "), err, complaint.String(), out.String())
	}
	return out.String(), nil
}

// closeLimit bounds the ending of an installation, whatever the caller's
// context: cleaning up is not given up.
const closeLimit = 2 * time.Minute

// Close ends the server and every sandbox, looks with the ledger whether
// anything is left, and removes the data directory. What was left is its error,
// and is then removed by force: the next test must not stumble over it.
func (i *Installation) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	var errs []error
	if i.PID() != 0 {
		took, err := i.Signal(ctx, syscall.SIGTERM)
		errs = append(errs, err)
		if err == nil && took > 10*time.Second {
			errs = append(errs, fmt.Errorf("the server took %v to end", took))
		}
	}
	if i.Tag() != "" {
		_, err := i.Run(ctx, "kill", "--all", "--data", i.Data)
		errs = append(errs, err)
	}
	scope := i.Scope()
	scope.Server, scope.ListAll, scope.Debug = 0, nil, ""
	scope.Dirs = nil // the data directory stays until it is removed
	left, err := scope.Settle(deadline(ctx, 10*time.Second), ledger.Snapshot{})
	errs = append(errs, err)
	for _, l := range left {
		errs = append(errs, fmt.Errorf("left behind: %s", l))
	}
	if len(left) > 0 {
		errs = append(errs, i.sweep(ctx))
	}
	said := i.tail(4000)
	errs = append(errs, os.RemoveAll(i.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w\nthe server said:\n%s", err, said)
	}
	return nil
}

// deadline bounds ctx. The timer is freed when it fires or ctx ends.
func deadline(ctx context.Context, d time.Duration) context.Context {
	bounded, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(bounded, cancel)
	return bounded
}

func (i *Installation) temp() string { return filepath.Join(i.dir, "tmp") }

// Log is the end of what the servers have said.
func (i *Installation) Log() string { return i.tail(16 << 10) }

// openLog opens the file that servers write to. It is a file and not a pipe to
// this process, so that a server outlives a test that dies, and cleans up.
func (i *Installation) openLog() (*os.File, error) {
	return os.OpenFile(i.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

func (i *Installation) logFile() string {
	if path := os.Getenv(EnvLog); path != "" {
		return path
	}
	return filepath.Join(i.dir, "server.log")
}

func (i *Installation) tail(n int64) string {
	f, err := os.Open(i.logFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > n {
		_, err = f.Seek(end-n, io.SeekStart)
		if err != nil {
			return err.Error()
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
