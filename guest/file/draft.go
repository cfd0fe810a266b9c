package file

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// A Draft is a file that is being written and has no name of its own yet: it
// becomes the file all at once or not at all. Discard is always owed.
type Draft struct {
	f       *os.File
	size    int64
	renamed bool
}

// NewDraft begins a file that will probably be called path; "" if that is not
// known yet. It lies beside path, or in dir, so that giving it its name is no
// copy. Missing parents of path are made.
func NewDraft(path, dir string) (*Draft, error) {
	if path != "" {
		dir = filepath.Dir(path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fault("write", path, err)
		}
		// Where a link leads, the file must lie to replace it by renaming.
		if at, err := follow(path); err == nil {
			dir = filepath.Dir(at)
		}
	}
	var first error
	for _, d := range []string{dir, "/", os.TempDir()} {
		f, err := os.CreateTemp(d, TempPrefix)
		if err == nil {
			return &Draft{f: f}, nil
		}
		if first == nil {
			first = err
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EMFILE) {
			break
		}
	}
	if path == "" {
		path = dir
	}
	return nil, fault("write", path, first)
}

// Write adds to the draft. Its errors are answers already.
func (d *Draft) Write(b []byte) (int, error) {
	n, err := d.f.Write(b)
	d.size += int64(n)
	if err != nil {
		err = fault("write", "the file", err)
	}
	return n, err
}

// Size returns how much was written, in bytes.
func (d *Draft) Size() int64 { return d.size }

// Reader returns the draft from its beginning. Writing goes on at its end only
// after the reader has been read to the end.
func (d *Draft) Reader() (io.Reader, error) {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return nil, fault("read", "the file", err)
	}
	return d.f, nil
}

// Discard closes the draft and removes it unless it has become a file.
func (d *Draft) Discard() {
	d.f.Close()
	if !d.renamed {
		_ = os.Remove(d.f.Name()) // in the user's file system; what is left is hidden and his
	}
}

// Commit makes the draft the file at path, in place of one that is there unless
// overwrite is false. mode is in the kernel's bits; with [DefaultMode] a file
// keeps the one it has. Where path is a link, the file it leads to is replaced.
func (d *Draft) Commit(path string, mode fs.FileMode, overwrite bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fault("write", path, err)
	}
	target, err := follow(path)
	if err != nil {
		return fault("write", path, err)
	}
	old, err := os.Lstat(target)
	switch {
	case err == nil && !overwrite:
		return fault("write", path, fs.ErrExist)
	case err == nil && !old.Mode().IsRegular():
		return kindError("write", path, old.Mode())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fault("write", path, err)
	}
	if err := d.dress(old, mode); err != nil {
		return fault("write", path, err)
	}
	if !overwrite {
		return d.link(path, target, mode)
	}
	if old != nil && links(old) > 1 { // its other names must see the new content
		return d.copyInto(path, target, mode)
	}
	switch err := os.Rename(d.f.Name(), target); {
	case err == nil:
		d.renamed = true
		return nil
	case errors.Is(err, syscall.EXDEV) && filepath.Dir(d.f.Name()) != filepath.Dir(target):
		return d.cross(path, target, mode)
	case errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EBUSY), errors.Is(err, fs.ErrPermission):
		// Something is mounted on the file, or the directory is not ours to change.
		return d.copyInto(path, target, mode)
	default:
		return fault("write", path, err)
	}
}

// cross commits a copy that lies on the file system of target. Where none can
// be made, the target is written in place.
func (d *Draft) cross(path, target string, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(target), TempPrefix)
	if err != nil {
		return d.copyInto(path, target, mode)
	}
	near := &Draft{f: f}
	defer near.Discard()
	r, err := d.Reader()
	if err != nil {
		return err
	}
	if _, err := io.Copy(near, r); err != nil {
		return err
	}
	return near.Commit(path, mode, true)
}

// dress gives the draft its permissions, and the owner of the file it replaces.
func (d *Draft) dress(old fs.FileInfo, mode fs.FileMode) error {
	if old != nil {
		if st, ok := old.Sys().(*syscall.Stat_t); ok && (st.Uid != uint32(os.Geteuid()) || st.Gid != uint32(os.Getegid())) {
			if err := d.f.Chown(int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
	}
	bits := uint32(0o644)
	switch {
	case mode != DefaultMode:
		bits = uint32(mode)
	case old != nil:
		bits = kernelMode(old.Mode())
	}
	return fchmod(d.f, bits)
}

// link gives the draft a name that must be free.
func (d *Draft) link(path, target string, mode fs.FileMode) error {
	err := os.Link(d.f.Name(), target)
	switch {
	case err == nil:
		return nil // Discard removes the other name
	case errors.Is(err, fs.ErrExist):
		return fault("write", path, err)
	}
	// No links here. The name is taken first, so that nobody else has it.
	f, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault("write", path, err)
	}
	err = d.pour(f, mode)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(fault("write", path, err), os.Remove(target))
	}
	return nil
}

// copyInto overwrites a file in place. It is not all at once; nothing else is
// possible where it is used.
func (d *Draft) copyInto(path, target string, mode fs.FileMode) error {
	f, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0o644)
	if err != nil {
		return fault("write", path, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fault("write", path, err)
	}
	if !fi.Mode().IsRegular() {
		return kindError("write", path, fi.Mode())
	}
	if err := f.Truncate(0); err != nil {
		return fault("write", path, err)
	}
	if err := d.pour(f, mode); err != nil {
		return fault("write", path, err)
	}
	if err := f.Close(); err != nil {
		return fault("write", path, err)
	}
	return nil
}

// pour copies the draft to f and sets the mode.
func (d *Draft) pour(f *os.File, mode fs.FileMode) error {
	r, err := d.Reader()
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if mode == DefaultMode {
		return nil
	}
	return fchmod(f, uint32(mode))
}

func fchmod(f *os.File, bits uint32) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	if err := c.Control(func(fd uintptr) { cerr = syscall.Fchmod(int(fd), bits) }); err != nil {
		return err
	}
	return cerr
}

func links(fi fs.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink) //nolint:unconvert // 32 bits on arm64
	}
	return 1
}

// follow returns where the links at the end of path lead, whether or not
// something is there. Links in the directories are resolved.
func follow(path string) (string, error) {
	for range 40 { // as many as the kernel follows
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		to, _ := os.Readlink(path) // empty for what is no link, or not there
		if to == "" {
			return path, nil
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		path = filepath.Clean(to)
	}
	return "", syscall.ELOOP
}
