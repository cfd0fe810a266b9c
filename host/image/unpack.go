package image

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// skeleton makes directories with the modes they have in a Debian, whatever
// the umask, as they are laid over a Debian's own.
func skeleton(dir string, names ...string) error {
	for _, name := range names {
		for at := dir; name != ""; {
			var elem string
			elem, name, _ = strings.Cut(name, "/")
			at = filepath.Join(at, elem)
			if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			mode := fs.FileMode(0o755)
			if elem == "root" {
				mode = 0o700
			}
			if err := os.Chmod(at, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// untar unpacks the files of a gzipped archive into dir, each where place says.
func (p *preparation) untar(ctx context.Context, a artifact, dir string, place func(name string) string) error {
	f, err := os.Open(p.s.cached(a))
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for tr := tar.NewReader(ctxReader{ctx, z}); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		to := place(h.Name)
		if h.Typeflag != tar.TypeReg || to == "" {
			continue
		}
		if err := unpack(root, to, tr, h.Mode&0o111 != 0, time.Unix(0, 0)); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
}

// unzip is untar for a zip archive, which says nothing of modes: programs are
// told by where they lie.
func (p *preparation) unzip(ctx context.Context, a artifact, dir string, place func(name string) string) error {
	z, err := zip.OpenReader(p.s.cached(a))
	if err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	defer z.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, zf := range z.File {
		to := place(zf.Name)
		if to == "" || strings.HasSuffix(zf.Name, "/") {
			continue
		}
		program := strings.Contains(to, "/go/bin/") || strings.Contains(to, "/go/pkg/tool/")
		r, err := zf.Open()
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		err = unpack(root, to, ctxReader{ctx, r}, program, time.Unix(0, 0))
		r.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

// unpack writes one file beneath root, with the modes of a package.
func unpack(root *os.Root, name string, r io.Reader, program bool, mtime time.Time) error {
	mode := fs.FileMode(0o644)
	if program {
		mode = 0o755
	}
	if err := makeDirs(root, path.Dir(name)); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return root.Chtimes(name, mtime, mtime)
}

// makeDirs makes the directories on the way to dir that are missing, with the
// modes of a package whatever the umask.
func makeDirs(root *os.Root, dir string) error {
	if _, err := root.Lstat(dir); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirs(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return root.Chmod(dir, 0o755)
}
