package image

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

func (p *preparation) makeInterpreter(ctx context.Context) (Image, error) {
	var err error
	if p.dl, err = p.s.downloader(); err != nil {
		return Image{}, err
	}
	defer p.dl.close()
	wheels, err := p.dl.wheels()
	if err != nil {
		return Image{}, err
	}
	nodes, goZip := p.s.nodeArtifacts(), p.s.goArtifact()
	var system, python, node, golang, libs, cache string
	got := make(chan struct{}) // closed when everything has been downloaded
	inPython := make(chan struct{})

	// Downloads wait for the network and Debian's packages for the disk and the
	// processor, so both run at once; what needs both waits for both.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		p.rep.begin("downloads")
		as := append(append([]artifact{goZip}, nodes...), wheels...)
		if err := p.dl.fetch(gctx, as, p.rep.moved); err != nil {
			return err
		}
		p.rep.done()
		close(got)
		return nil
	})
	g.Go(func() (err error) {
		if system, err = p.makeSystem(gctx); err != nil {
			return err
		}
		if python, err = p.makePython(gctx, system); err != nil {
			return err
		}
		close(inPython)
		return nil
	})
	await := func(cs ...chan struct{}) error {
		for _, c := range cs {
			select {
			case <-c:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	}
	g.Go(func() (err error) {
		if err := await(got, inPython); err != nil {
			return err
		}
		libs, err = p.makeLibraries(gctx, python, wheels)
		return err
	})
	g.Go(func() (err error) {
		if err := await(got); err != nil {
			return err
		}
		if golang, err = p.makeGo(gctx, goZip); err != nil {
			return err
		}
		if err := await(inPython); err != nil {
			return err
		}
		if cache, err = p.makeGoCache(gctx, python, golang); err != nil {
			return err
		}
		node, err = p.makeNode(gctx, python, nodes)
		return err
	})
	if err := g.Wait(); err != nil {
		return Image{}, err
	}
	debian, err := weigh(system)
	if err != nil {
		return Image{}, err
	}
	img, err := p.assemble(ctx, CodeInterpreter, []Part{{"debian", debian}}, []layerDir{
		{"python", python}, {"python libraries", libs}, {"nodejs", node}, {"go", golang}, {"go build cache", cache},
	})
	if err != nil {
		return Image{}, err
	}
	return img, p.forget()
}

// makePython adds Debian's Python to a copy of the system.
func (p *preparation) makePython(ctx context.Context, system string) (string, error) {
	return p.step(ctx, p.python, "Python", func(ctx context.Context, dir string) error {
		if err := copyTree(ctx, system, dir); err != nil {
			return err
		}
		return p.packages(ctx, dir, "python.sh", pythonPackages...)
	})
}

// makeLibraries installs the wheels. The result holds usr/local and root only,
// to be laid over the system that it was made in.
func (p *preparation) makeLibraries(ctx context.Context, python string, wheels []artifact) (string, error) {
	return p.step(ctx, p.libs, "Python libraries", func(ctx context.Context, dir string) error {
		if err := skeleton(dir, "usr/local/bin", "usr/local/lib/python3.11/dist-packages", "root"); err != nil {
			return err
		}
		binds := []bind{{filepath.Join(dir, "usr/local"), "/usr/local"}, {filepath.Join(dir, "root"), "/root"}}
		for _, w := range wheels {
			binds = append(binds, bind{p.s.cached(w), "/run/hutch/wheels/" + w.name})
		}
		args := append([]string{strconv.Itoa(runtime.GOMAXPROCS(0))}, trimmed...)
		return chroot{root: python, readOnly: true, binds: binds}.run(ctx, p.log(), "libraries.sh", args...)
	})
}

// makeNode unpacks Node and npm and tries them in the system.
func (p *preparation) makeNode(ctx context.Context, python string, as []artifact) (string, error) {
	return p.step(ctx, p.node, "Node.js", func(ctx context.Context, dir string) error {
		if err := skeleton(dir, "usr/local/bin", "usr/local/lib/node_modules/npm"); err != nil {
			return err
		}
		err := p.untar(ctx, as[0], dir, func(name string) string {
			switch name {
			case "package/bin/node":
				return "usr/local/bin/node"
			case "package/LICENSE":
				return "usr/local/share/doc/nodejs/LICENSE"
			}
			return "" // headers, for which there is no compiler, and documents
		})
		if err != nil {
			return err
		}
		err = p.untar(ctx, as[1], dir, func(name string) string {
			rest, ok := strings.CutPrefix(name, "package/")
			if !ok || strings.HasPrefix(rest, "docs/") || strings.HasPrefix(rest, "man/") {
				return ""
			}
			return "usr/local/lib/node_modules/npm/" + rest
		})
		if err != nil {
			return err
		}
		for _, tool := range []string{"npm", "npx"} {
			link := filepath.Join(dir, "usr/local/bin", tool)
			if err := os.Symlink("../lib/node_modules/npm/bin/"+tool+"-cli.js", link); err != nil {
				return err
			}
			if err := os.Chmod(filepath.Join(dir, "usr/local/lib/node_modules/npm/bin", tool+"-cli.js"), 0o755); err != nil {
				return err
			}
		}
		return chroot{root: python, readOnly: true, binds: []bind{{filepath.Join(dir, "usr/local"), "/usr/local"}}}.
			run(ctx, p.log(), "node.sh")
	})
}

// makeGo unpacks Go's toolchain, less the tests of its own library.
func (p *preparation) makeGo(ctx context.Context, a artifact) (string, error) {
	return p.step(ctx, p.golang, "Go", func(ctx context.Context, dir string) error {
		if err := skeleton(dir, "usr/local/bin", "usr/local/go"); err != nil {
			return err
		}
		if err := p.unzip(ctx, a, dir, goFile); err != nil {
			return err
		}
		env, err := os.OpenFile(filepath.Join(dir, "usr/local/go/go.env"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer env.Close()
		// The last line for a variable counts. Other toolchains would be
		// fetched in every sandbox anew.
		if _, err := env.WriteString("\nGOTOOLCHAIN=local\n"); err != nil {
			return err
		}
		for _, tool := range []string{"go", "gofmt"} {
			if err := os.Symlink("../go/bin/"+tool, filepath.Join(dir, "usr/local/bin", tool)); err != nil {
				return err
			}
		}
		return nil
	})
}

// goFile says where a file of Go's toolchain goes: "" for those left out.
func goFile(name string) string {
	_, rest, ok := strings.Cut(name, "/") // golang.org/toolchain@version/...
	if !ok {
		return ""
	}
	_, rest, ok = strings.Cut(rest, "/")
	if !ok {
		return ""
	}
	for _, dir := range []string{"test/", "api/", "doc/", "misc/"} {
		if strings.HasPrefix(rest, dir) {
			return ""
		}
	}
	if strings.HasSuffix(rest, "_test.go") || strings.Contains(rest, "/testdata/") {
		return ""
	}
	return "usr/local/go/" + rest
}

// makeGoCache compiles the packages in warm, so that a sandbox need not.
func (p *preparation) makeGoCache(ctx context.Context, python, golang string) (string, error) {
	return p.step(ctx, p.cache, "Go build cache", func(ctx context.Context, dir string) error {
		if err := skeleton(dir, "root"); err != nil {
			return err
		}
		binds := []bind{{filepath.Join(golang, "usr/local/go"), "/usr/local/go"}, {filepath.Join(dir, "root"), "/root"}}
		return chroot{root: python, readOnly: true, binds: binds}.run(ctx, p.log(), "go.sh", warm...)
	})
}
