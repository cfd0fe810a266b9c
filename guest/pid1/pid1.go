// Package pid1 is the first process of a sandbox: it starts the agent, starts
// it again when it dies, keeps what it needs to go on, and reaps orphans. It
// needs nothing of the guest's file system but its own program, which tenants
// cannot write. It must not know what the agent does.
package pid1

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutch-sh/hutch/internal/handshake"
)

// LinkFD is the descriptor an agent started by [Run] finds its line to init at,
// for [OpenLink].
const LinkFD = 3

// Limits. An agent that dies more often than maxDeaths times within window will
// not do better the next time; the sandbox ends, and its owner learns why.
const (
	maxDeaths  = 5
	window     = 10 * time.Second
	stopGrace  = 10 * time.Second       // for the agent, after SIGTERM
	lastWords  = 500 * time.Millisecond // for what a dead agent had still said
	forkRetry  = 50 * time.Millisecond
	forkPeriod = 10 * time.Second // how long a machine without room for a process is retried
)

// A Config says what to run.
type Config struct {
	Program string   // absolute path of the agent's program
	Args    []string // its arguments, without its name

	// Ready is written to once, when the agent listens for the first time. That
	// it is closed or broken later never matters.
	Ready io.Writer
	Log   *os.File // standard output and error of the agent; nil: none
}

// Run is the life of init. It returns the exit code: 0 after SIGTERM, 1 when
// the agent cannot be kept alive. It waits for every child of this process, so
// nothing else in it may have any.
func Run(cfg Config) int {
	s := &supervisor{cfg: cfg, states: map[string][]byte{}}
	if err := s.prepare(); err != nil {
		s.say("init: %v", err)
		return 1
	}
	return s.run()
}

type supervisor struct {
	cfg     Config
	null    *os.File
	signals chan os.Signal
	exits   chan exit
	kick    chan struct{} // a child was started
	ready   chan struct{} // an agent listens

	mu     sync.Mutex
	states map[string][]byte
}

type exit struct {
	pid int
	ws  unix.WaitStatus
}

func (s *supervisor) say(format string, args ...any) {
	if s.cfg.Log != nil {
		fmt.Fprintf(s.cfg.Log, format+"\n", args...)
	}
}

func (s *supervisor) prepare() error {
	s.exits, s.kick, s.ready = make(chan exit), make(chan struct{}, 1), make(chan struct{}, 1)

	// Caught, not ignored: what is ignored stays ignored in every process of the
	// sandbox. Those that mean nothing here are caught because Go would end.
	s.signals = make(chan os.Signal, 8)
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGINT)
	unwanted := make(chan os.Signal, 1)
	signal.Notify(unwanted, syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGALRM, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)

	closeOnExec()
	unix.Umask(0o022)
	var err error
	if s.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		r, w, perr := os.Pipe()
		if perr != nil {
			return errors.Join(err, perr)
		}
		w.Close() // an input at its end
		s.null = r
	}
	return nil
}

// run keeps an agent alive.
func (s *supervisor) run() int {
	go s.reap()
	var deaths []time.Time
	announced := false
	for {
		a, err := s.start()
		if err != nil {
			s.say("init: start the agent: %v", err)
			return 1
		}
		code, stopped := s.attend(a, &announced)
		if stopped {
			return code
		}
		now := time.Now()
		deaths = slices.DeleteFunc(append(deaths, now), func(t time.Time) bool { return now.Sub(t) > window })
		if len(deaths) > maxDeaths {
			s.say("init: the agent died %d times within %v: giving up", len(deaths), window)
			return 1
		}
	}
}

// attend waits until the agent has died. stopped says that init was told to end.
func (s *supervisor) attend(a *agent, announced *bool) (code int, stopped bool) {
	var patience <-chan time.Time
	for {
		select {
		case <-s.ready:
			if !*announced {
				*announced = true
				_, _ = io.WriteString(s.cfg.Ready, handshake.ReadyLine) // whoever waited may have gone
			}
		case <-s.signals:
			stopped = true
			if patience == nil {
				patience = time.After(stopGrace)
			}
			a.signal(unix.SIGTERM)
		case <-patience:
			a.signal(unix.SIGKILL)
		case e := <-s.exits:
			if e.pid != a.pid {
				continue // an orphan
			}
			a.close()
			if stopped {
				return 0, true
			}
			s.say("init: the agent ended: %s", describe(e.ws))
			return 0, false
		}
	}
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + ws.Signal().String()
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}

// reap waits for every child there is. Orphans become init's children, and a
// process nobody waits for takes its place for ever.
func (s *supervisor) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // no children at all
			<-s.kick
		default:
			s.exits <- exit{pid, ws}
		}
	}
}

// An agent is one run of the agent's program.
type agent struct {
	pid  int
	link *os.File
	read chan struct{} // closed when everything it said was read
}

func (a *agent) signal(sig unix.Signal) {
	_ = unix.Kill(a.pid, sig) // it may have ended, but it has not been waited for: nobody else has its pid
}

// close returns when what a dead agent said has been read.
func (a *agent) close() {
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-a.read:
	case <-t.C: // somebody else holds its end
	}
	a.link.Close()
	<-a.read
}

// start runs the agent and hands it what earlier ones had kept. A machine that
// has no room for a process may have it again in a moment.
func (s *supervisor) start() (*agent, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, err := socketFile(fds[0])
	if err != nil {
		_ = unix.Close(fds[1]) // nothing was written to it
		return nil, err
	}
	out := s.null.Fd()
	if s.cfg.Log != nil {
		out = s.cfg.Log.Fd()
	}
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []uintptr{s.null.Fd(), out, out, LinkFD: uintptr(fds[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	argv := append([]string{s.cfg.Program}, s.cfg.Args...)
	var pid int
	for end := time.Now().Add(forkPeriod); ; {
		pid, _, err = syscall.StartProcess(s.cfg.Program, argv, attr)
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ENOMEM) || time.Now().After(end) {
			break
		}
		<-time.After(forkRetry)
	}
	_ = unix.Close(fds[1]) // the agent has its own
	if err != nil {
		ours.Close()
		return nil, err
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
	a := &agent{pid: pid, link: ours, read: make(chan struct{})}
	go s.listen(a)
	return a, nil
}

// listen tells the agent what there is to know, then keeps what it says.
func (s *supervisor) listen(a *agent) {
	defer close(a.read)
	s.mu.Lock()
	states := maps.Clone(s.states)
	s.mu.Unlock()
	for name, data := range states {
		if err := writeFrame(a.link, frame{frameState, packState(name, data)}); err != nil {
			return // it has died; init knows already
		}
	}
	if err := writeFrame(a.link, frame{kind: frameStart}); err != nil {
		return
	}
	for {
		f, err := readFrame(a.link)
		if err != nil {
			return
		}
		switch f.kind {
		case frameReady:
			select {
			case s.ready <- struct{}{}:
			default:
			}
		case frameState:
			name, data, err := unpackState(f.payload)
			if err != nil {
				continue
			}
			s.mu.Lock()
			if _, known := s.states[name]; known || len(s.states) < maxStates {
				s.states[name] = data
			}
			s.mu.Unlock()
		}
	}
}

// socketFile makes a file of a socket whose reads and writes park goroutines.
func socketFile(fd int) (*os.File, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "link"), nil
}

// closeOnExec keeps descriptors that were handed to this process by mistake
// from reaching the sandbox's programs.
func closeOnExec() {
	_ = unix.CloseRange(LinkFD, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC) // before Linux 5.11 they do reach them
}

// Seal does that for an agent, which [Run] starts with descriptors of its own.
func Seal() { closeOnExec() }
