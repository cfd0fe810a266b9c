package image

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch"
)

//go:embed scripts/*.sh
var scripts embed.FS

func script(name string) string {
	b, err := scripts.ReadFile("scripts/" + name)
	if err != nil {
		panic("image: no embedded script " + name) //nolint:forbidigo // the program was built without it: nothing to return to
	}
	return string(b)
}

// A bind makes a file or directory of the host visible in a [chroot].
type bind struct{ host, inside string }

// A chroot is a root directory that programs of a template being built run in.
type chroot struct {
	root     string
	readOnly bool // but for binds
	binds    []bind
}

// run runs an embedded script inside c. The script and all it starts live in
// mount, process, host name and IPC namespaces of their own, which the kernel
// ends with the script, with ctx, and with this program: nothing is left
// running or mounted, not even after kill -9.
func (c chroot) run(ctx context.Context, log io.Writer, name string, args ...string) error {
	mode := "rw"
	if c.readOnly {
		mode = "ro"
	}
	argv := []string{c.root, mode}
	for _, b := range c.binds {
		argv = append(argv, b.host, b.inside)
	}
	argv = append(argv, "--", script(name), name)
	argv = append(argv, args...)
	return runPrivate(ctx, log, script("enter.sh"), name, argv...)
}

// runPrivate runs the text of a script as process 1 of new namespaces, on the
// host's filesystem. name is for errors.
func runPrivate(ctx context.Context, log io.Writer, text, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", text, name}, args...)...)
	cmd.Dir = "/"
	cmd.Env = buildEnv()
	tail := &lastBytes{limit: 4 << 10}
	cmd.Stdout = io.MultiWriter(log, tail)
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
	}
	// The signal comes with the death of the thread that started the process,
	// so that thread stays ours until the process has ended.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.EPERM):
		return &hutch.Error{Kind: hutch.Unavailable, Op: "image.Prepare", Msg: "templates are built by root, with the right to make namespaces", Err: err}
	}
	return &hutch.Error{Op: "image.Prepare", Msg: fmt.Sprintf("building failed in %s", name),
		Err: fmt.Errorf("%w: %s", err, bytes.TrimSpace(tail.b))}
}

// buildEnv is the environment of everything that builds: a fixed one, and what
// this machine says of proxies and trust. No other variable of ours gets in.
func buildEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	for _, k := range []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"} {
		for _, k := range []string{k, strings.ToUpper(k)} {
			if v, ok := os.LookupEnv(k); ok {
				env = append(env, k+"="+v)
			}
		}
	}
	for _, k := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	limit int
	b     []byte
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if over := len(l.b) - l.limit; over > 0 {
		l.b = append(l.b[:0], l.b[over:]...)
	}
	return len(p), nil
}
