package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutch-sh/hutch"
)

// Names of the templates that Prepare can make.
const (
	Base            = "base"             // a minimal Debian
	CodeInterpreter = "code-interpreter" // Python, Node and Go on it
)

// Prepare returns the image of a template that is made here: [Base] or
// [CodeInterpreter]. One that was made from the same recipe before is returned
// as it is.
//
// It is made in steps, each of which is kept under build/ when it is finished;
// after an interruption of any kind finished steps and downloads are not done
// again. progress may be nil, and must not block. It needs root.
//
// Unavailable means that a registry could not be reached or that another
// process is preparing; nothing is left half done.
func (s *Store) Prepare(ctx context.Context, name string, progress func(Progress)) (Image, error) {
	const op = "image.Prepare"
	if name != Base && name != CodeInterpreter {
		return Image{}, &hutch.Error{Kind: hutch.NotFound, Op: op, Msg: fmt.Sprintf("there is no recipe for template %q", name)}
	}
	unlock, err := s.lockBuild(ctx)
	if err != nil {
		return Image{}, err
	}
	defer unlock()

	p := &preparation{s: s}
	if err := p.plan(name); err != nil {
		return Image{}, err
	}
	all, err := s.Images()
	if err != nil {
		return Image{}, err
	}
	for _, img := range slices.Backward(all) {
		if img.Recipe != p.recipe {
			continue
		}
		// What is told of it may have changed with this program.
		fresh := img
		s.describe(&fresh)
		if reflect.DeepEqual(fresh, img) {
			return img, nil
		}
		if err := s.putManifest(fresh); err != nil {
			return Image{}, &hutch.Error{Op: op, Msg: "the manifest of an image cannot be written", Err: err}
		}
		return fresh, nil
	}
	if err := p.clear(); err != nil {
		return Image{}, &hutch.Error{Op: op, Msg: "the rest of an interrupted build cannot be removed", Err: err}
	}
	img, err := p.make(ctx, name, progress)
	if err != nil {
		var he *hutch.Error
		if !errors.As(err, &he) {
			err = &hutch.Error{Kind: hutch.KindOf(err), Op: op, Msg: "preparing template " + name + " failed", Err: err}
		}
		return Image{}, err
	}
	return img, nil
}

// lockBuild waits for its turn in this process, and takes the lock that other
// processes see. That lock goes with the process, however it ends.
func (s *Store) lockBuild(ctx context.Context) (unlock func(), err error) {
	const op = "image.Prepare"
	select {
	case <-s.build:
	case <-ctx.Done():
		return nil, &hutch.Error{Kind: hutch.KindOf(ctx.Err()), Op: op, Msg: "given up while another template was prepared", Err: ctx.Err()}
	}
	f, err := os.OpenFile(s.path("build", "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return func() { f.Close(); s.build <- struct{}{} }, nil
		}
		f.Close()
	}
	s.build <- struct{}{}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &hutch.Error{Kind: hutch.Unavailable, Op: op, Msg: "another process prepares templates in this directory", Err: err}
	}
	return nil, &hutch.Error{Op: op, Msg: "the build directory cannot be locked", Err: err}
}

// A preparation makes one image. Its steps are named after what goes into them,
// so that a change of a recipe does again what it touches and nothing else.
type preparation struct {
	s      *Store
	rep    *reporter
	dl     *downloader
	recipe string

	bootstrap, system                 string // names of the steps of both templates
	python, node, golang, libs, cache string // and of code-interpreter
}

// stepName derives a step's name from its purpose and everything it depends on.
func stepName(purpose string, inputs ...string) string {
	h := sha256.New()
	for _, in := range inputs {
		fmt.Fprintf(h, "%d:%s", len(in), in)
	}
	return purpose + "-" + hex.EncodeToString(h.Sum(nil)[:8])
}

// plan names the steps of template name.
func (p *preparation) plan(name string) error {
	o := p.s.o
	ca := string(bytes.Join(p.s.extraCA, nil))
	p.bootstrap = stepName("bootstrap", runtime.GOARCH, o.Mirror, o.Suite, script("bootstrap.sh"), script("enter.sh"), script("configure.sh"))
	p.system = stepName("system", p.bootstrap, o.Security, ca, script("system.sh"), script("tidy.sh"), strings.Join(basePackages, " "))
	if name == Base {
		p.recipe = stepName(name, p.system)
		return nil
	}
	if o.Suite != defaultSuite || runtime.GOARCH != "amd64" {
		return &hutch.Error{Kind: hutch.Unsupported, Op: "image.Prepare",
			Msg: "code-interpreter can be made of Debian " + defaultSuite + " on amd64 only"}
	}
	wheels, err := pins.ReadFile("pins/python-3.11-amd64.txt")
	if err != nil {
		return fmt.Errorf("pinned wheels: %w", err)
	}
	p.python = stepName("python", p.system, script("python.sh"), strings.Join(pythonPackages, " "))
	p.libs = stepName("libraries", p.python, string(wheels), script("libraries.sh"), strings.Join(trimmed, " "))
	p.node = stepName("node", "unpacked as of 2", p.python, nodeSum, npmSum, script("node.sh"))
	p.golang = stepName("go", "unpacked as of 1", goSum)
	p.cache = stepName("gocache", p.golang, p.python, script("go.sh"), strings.Join(warm, " "))
	p.recipe = stepName(name, p.libs, p.node, p.cache)
	return nil
}

// stepsDir is where the results of steps are.
func (p *preparation) stepsDir(elem ...string) string {
	return p.s.path(append([]string{"build", "steps"}, elem...)...)
}

// clear removes what interrupted steps and downloads left.
func (p *preparation) clear() error {
	for _, pattern := range []string{p.stepsDir("*.tmp"), p.s.path("build", "cache", "*.tmp"), p.s.path("build", "*.tmp")} {
		old, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, name := range old {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget removes the results of all steps but keep.
func (p *preparation) forget(keep ...string) error {
	ents, err := os.ReadDir(p.stepsDir())
	if err != nil {
		return err
	}
	for _, e := range ents {
		if slices.Contains(keep, e.Name()) {
			continue
		}
		if err := os.RemoveAll(p.stepsDir(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// step does one step unless it was done before, and returns the directory with
// its result. do fills a new directory; only when it has succeeded and the disk
// has everything does the directory get its name.
func (p *preparation) step(ctx context.Context, name, title string, do func(ctx context.Context, dir string) error) (string, error) {
	final := p.stepsDir(name)
	if _, err := os.Lstat(final); err == nil {
		p.rep.done()
		return final, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	p.rep.begin(title)
	start := time.Now()
	tmp := final + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // whatever the umask
		return "", err
	}
	if err := do(ctx, tmp); err != nil {
		if rm := os.RemoveAll(tmp); rm != nil {
			p.s.o.Log.Warn("rest of a failed step not removed", "dir", tmp, "err", rm)
		}
		return "", err
	}
	made := time.Now()
	if err := syncFS(tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", err
	}
	if err := syncDir(p.stepsDir()); err != nil {
		return "", err
	}
	p.rep.done()
	p.s.o.Log.Info("step done", "step", title, "took", made.Sub(start).Round(time.Millisecond), "sync", time.Since(made).Round(time.Millisecond))
	return final, nil
}

// syncFS writes everything under dir's filesystem to disk: a step is thousands
// of files, and syncing each would take longer than making them.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// copyTree copies a directory with owners, times and links.
func copyTree(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", "--", from+"/.", to).CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("copy %s: %w: %s", from, err, bytes.TrimSpace(out))
	}
	return nil
}

// splitPEM returns the certificates in a PEM file, each as a file of its own.
func splitPEM(raw []byte) ([][]byte, error) {
	var out [][]byte
	for {
		block, rest := pem.Decode(raw)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s, and must hold certificates only", block.Type)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		raw = rest
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return out, nil
}

// logWriter passes the output of programs to the log, line by line.
type logWriter struct {
	log  *slog.Logger
	rest []byte
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			break
		}
		w.log.Debug("build", "out", string(line))
		w.rest = rest
	}
	if len(w.rest) > 64<<10 {
		w.rest = nil
	}
	return len(b), nil
}
