package image

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/hutch-sh/hutch"
)

// Steps reported for each template; see make.
const (
	baseSteps        = 3
	interpreterSteps = 9
)

// make makes the image of template name.
func (p *preparation) make(ctx context.Context, name string, progress func(Progress)) (Image, error) {
	if name == Base {
		p.rep = newReporter(progress, name, baseSteps)
		return p.makeBase(ctx)
	}
	p.rep = newReporter(progress, name, interpreterSteps)
	return p.makeInterpreter(ctx)
}

func (p *preparation) makeBase(ctx context.Context) (Image, error) {
	system, err := p.makeSystem(ctx)
	if err != nil {
		return Image{}, err
	}
	img, err := p.assemble(ctx, Base, nil, []layerDir{{"debian", system}})
	if err != nil {
		return Image{}, err
	}
	// The system is kept for code-interpreter, which is built on it.
	return img, p.forget(p.system)
}

// makeSystem makes the Debian that all templates are built on.
func (p *preparation) makeSystem(ctx context.Context) (string, error) {
	if _, err := os.Lstat(p.stepsDir(p.system)); err == nil {
		p.rep.done()
		p.rep.done()
		return p.stepsDir(p.system), nil
	}
	o := p.s.o
	debs := p.s.path("build", "cache", "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return "", err
	}
	bootstrap, err := p.step(ctx, p.bootstrap, "Debian "+o.Suite, func(ctx context.Context, dir string) error {
		if _, err := exec.LookPath("debootstrap"); err != nil {
			return &hutch.Error{Kind: hutch.Unavailable, Op: "image.Prepare", Msg: "debootstrap is not installed: templates are made with it (apt-get install debootstrap)", Err: err}
		}
		if _, err := os.Stat(o.Keyring); err != nil {
			return &hutch.Error{Kind: hutch.Unavailable, Op: "image.Prepare", Msg: "the keys of Debian's archive are not installed (apt-get install debian-archive-keyring)", Err: err}
		}
		if err := runPrivate(ctx, p.log(), script("bootstrap.sh"), "bootstrap.sh", o.Suite, dir, o.Mirror, o.Keyring, debs); err != nil {
			return err
		}
		return chroot{root: dir}.run(ctx, p.log(), "configure.sh")
	})
	if err != nil {
		return "", err
	}
	return p.step(ctx, p.system, "Debian packages", func(ctx context.Context, dir string) error {
		if err := copyTree(ctx, bootstrap, dir); err != nil {
			return err
		}
		args := append([]string{o.Mirror, o.Security, o.Suite}, basePackages...)
		return p.packages(ctx, dir, "system.sh", args...)
	})
}

// packages runs a script that installs Debian packages into dir, and tidies up.
func (p *preparation) packages(ctx context.Context, dir, name string, args ...string) error {
	// What the script needs of this machine is copied, so that nothing it does
	// could change the originals, and shown to it outside the template's tree.
	aid, err := os.MkdirTemp(p.s.path("build"), "aid-*.tmp")
	if err != nil {
		return err
	}
	defer os.RemoveAll(aid)
	binds := []bind{}
	offer := func(name string, content []byte, inside string) error {
		if err := os.WriteFile(filepath.Join(aid, name), content, 0o644); err != nil {
			return err
		}
		binds = append(binds, bind{filepath.Join(aid, name), inside})
		return nil
	}
	for _, f := range []string{"resolv.conf", "hosts"} {
		content, err := os.ReadFile("/etc/" + f)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := offer(f, content, "/etc/"+f); err != nil {
			return err
		}
	}
	if err := offer("trust.pem", p.s.trustPEM(), "/run/hutch/trust.pem"); err != nil {
		return err
	}
	if len(p.s.extraCA) > 0 {
		if err := os.Mkdir(filepath.Join(aid, "ca"), 0o755); err != nil {
			return err
		}
		for i, pem := range p.s.extraCA {
			if err := os.WriteFile(filepath.Join(aid, "ca", "hutch-extra-"+strconv.Itoa(i+1)+".crt"), pem, 0o644); err != nil {
				return err
			}
		}
		binds = append(binds, bind{filepath.Join(aid, "ca"), "/run/hutch/extra-ca"})
	}
	archives := p.s.path("build", "cache", "archives")
	if err := os.MkdirAll(filepath.Join(archives, "partial"), 0o755); err != nil {
		return err
	}
	binds = append(binds, bind{archives, "/var/cache/apt/archives"})
	if err := (chroot{root: dir, binds: binds}).run(ctx, p.log(), name, args...); err != nil {
		return err
	}
	return chroot{root: dir}.run(ctx, p.log(), "tidy.sh")
}

// trustPEM returns the certificate authorities that builds trust: the system's,
// as one file, and ExtraCA's.
func (s *Store) trustPEM() []byte {
	var out []byte
	for _, name := range []string{os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"} {
		if name == "" {
			continue
		}
		if b, err := os.ReadFile(name); err == nil {
			out = b
			break
		}
	}
	return append(out, bytes.Join(s.extraCA, nil)...)
}

func (p *preparation) log() *logWriter { return &logWriter{log: p.s.o.Log} }

// A layerDir is a directory that becomes a part of an image.
type layerDir struct{ name, dir string }

// assemble lays directories over each other and writes the image. parts are
// what is known already of what they weigh; the rest is added to it.
func (p *preparation) assemble(ctx context.Context, name string, parts []Part, dirs []layerDir) (Image, error) {
	p.rep.begin("root filesystem")
	img := Image{Name: name, Source: "debian:" + p.s.o.Suite, Recipe: p.recipe, Parts: parts}
	p.s.describe(&img)
	t := newTree()
	var known int64
	for _, part := range parts {
		known += part.Bytes
	}
	for _, d := range dirs {
		root, err := os.OpenRoot(d.dir)
		if err != nil {
			return Image{}, err
		}
		defer root.Close() // after the image has been written from it
		n, err := t.addDirectory(root)
		if err != nil {
			return Image{}, err
		}
		// The first directory holds what the known parts weigh.
		img.Parts = append(img.Parts, Part{d.name, n - known})
		known = 0
	}
	img, err := p.s.commit(ctx, img, t)
	if err != nil {
		return Image{}, err
	}
	p.rep.done()
	return img, nil
}

// weigh returns the bytes of the files in dir.
func weigh(dir string) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	return newTree().addDirectory(root)
}
