package image

import (
	"archive/tar"
	"errors"
	"io"
	"math"
	"path"
	"strings"

	"github.com/hutch-sh/hutch"
)

// The names OCI layers use to take away what lower layers brought.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // AUFS bookkeeping, all of it but opaqueMarker meaningless
	opaqueMarker   = ".wh..wh..opq"
)

// addLayer reads an uncompressed layer from r and lays it over t. Contents go
// to sp. On error t is of no further use.
func (t *tree) addLayer(r io.Reader, sp *spool, b *budget) error {
	t.layer++
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return brokenArchive(err)
		}
		if err := b.file(); err != nil {
			return err
		}
		if err := t.addEntry(h, tr, sp, b); err != nil {
			return err
		}
	}
}

// brokenArchive classes an error of reading a layer: what has a class already
// keeps it, and everything else is the archive's.
func brokenArchive(err error) error {
	var he *hutch.Error
	if errors.As(err, &he) || hutch.KindOf(err) != hutch.Internal {
		return err
	}
	return &hutch.Error{Kind: hutch.Invalid, Op: "image", Msg: "image refused: a layer is damaged or is no tar archive", Err: err}
}

func (t *tree) addEntry(h *tar.Header, r io.Reader, sp *spool, b *budget) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeGNUSparse:
	case tar.TypeChar, tar.TypeBlock:
		return refused("device node %q", h.Name)
	default:
		return refused("%q is of the unknown type %q", h.Name, string(h.Typeflag))
	}
	parts, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if h.Typeflag != tar.TypeDir {
			return refused("the root is not a directory")
		}
		return setMeta(t.root, h)
	}
	dir, err := t.dir(parts[:len(parts)-1], b)
	if err != nil {
		return err
	}
	name := parts[len(parts)-1]
	if strings.HasPrefix(name, whiteoutPrefix) {
		return t.addWhiteout(dir, name)
	}

	n := &inode{}
	switch h.Typeflag {
	case tar.TypeDir:
		if old := dir.children[name]; old.inode != nil && old.kind == kindDir {
			dir.children[name] = entry{old.inode, t.layer}
			return setMeta(old.inode, h)
		}
		n = newDir(0)
	case tar.TypeSymlink:
		n.kind = kindSymlink
		if n.target = h.Linkname; n.target == "" || len(n.target) > maxTarget || strings.IndexByte(n.target, 0) >= 0 {
			return refused("symbolic link %q has an impossible target of %d bytes", h.Name, len(n.target))
		}
	case tar.TypeFifo:
		n.kind = kindFIFO
	case tar.TypeLink:
		return t.addLink(dir, name, h, b)
	default:
		n.size = h.Size
		if err := b.content(h.Size); err != nil {
			return err
		}
		if h.Size > 0 {
			if n.data, err = sp.add(r, h.Size); err != nil {
				return err
			}
		}
	}
	if err := setMeta(n, h); err != nil {
		return err
	}
	return t.put(dir, name, n, b)
}

func (t *tree) addWhiteout(dir *inode, name string) error {
	if name == opaqueMarker {
		t.hide(dir)
		return nil
	}
	if strings.HasPrefix(name, whiteoutMeta) {
		return nil
	}
	hidden := strings.TrimPrefix(name, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return refused("whiteout %q names nothing", name)
	}
	t.whiteout(dir, hidden)
	return nil
}

// addLink adds a hard link. Its target must be a file that is in the tree by
// now: there is nothing else a link in an image could honestly mean.
func (t *tree) addLink(dir *inode, name string, h *tar.Header, b *budget) error {
	// Some builders write the target from the root of the image with a slash.
	parts, err := cleanName(strings.TrimPrefix(h.Linkname, "/"))
	if err != nil {
		return err
	}
	target, err := t.find(parts)
	if err != nil {
		return err
	}
	if target == nil || target.kind != kindFile {
		return refused("hard link %q leads to %q, which is no file in the image", h.Name, h.Linkname)
	}
	return t.put(dir, name, target, b)
}

// setMeta gives n what the header says of owner, mode and time. Extended
// attributes, file capabilities among them, are dropped: the runtime cannot
// read an inode that has any, and grants no capabilities from files.
func setMeta(n *inode, h *tar.Header) error {
	if h.Uid < 0 || h.Uid > math.MaxUint32 || h.Gid < 0 || h.Gid > math.MaxUint32 {
		return refused("%q belongs to the impossible user %d, group %d", path.Base(h.Name), h.Uid, h.Gid)
	}
	n.mode = uint16(h.Mode & 0o7777)
	n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	n.setTime(h.ModTime)
	return nil
}

// A spool holds the contents of all files of an image being pulled, one after
// the other, in one file that has no name any more: no content ever lies on the
// host under a name, and nothing is left of it whatever happens to us.
type spool struct {
	f   spoolFile
	end int64
	buf []byte
}

// spoolFile is what a spool needs of its file.
type spoolFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

func newSpool(f spoolFile) *spool { return &spool{f: f, buf: make([]byte, 256<<10)} }

// add copies size bytes from r to the end of the spool.
func (s *spool) add(r io.Reader, size int64) (content, error) {
	c := spooled{s.f, s.end, size}
	for left := size; left > 0; {
		n, err := r.Read(s.buf[:min(left, int64(len(s.buf)))])
		if n > 0 {
			if _, err := s.f.WriteAt(s.buf[:n], s.end); err != nil {
				return nil, &hutch.Error{Op: "image.Pull", Msg: "the contents of the image cannot be kept: is the disk full?", Err: err}
			}
			left -= int64(n)
			s.end += int64(n)
		}
		if err == io.EOF && left > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && left > 0 {
			return nil, brokenArchive(err)
		}
	}
	return c, nil
}

// spooled is the content of one file in a spool.
type spooled struct {
	f         io.ReaderAt
	off, size int64
}

func (s spooled) open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(s.f, s.off, s.size)), nil
}
