package image

import (
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"github.com/hutch-sh/hutch"
)

// Names and symbolic links longer than these cannot be represented by Linux,
// and the second is what keeps a hostile image from filling memory with names.
const (
	maxName   = 255
	maxPath   = 4096
	maxTarget = 4095
)

// A kind is the type of an inode. Device nodes and sockets are not among them
// on purpose: a template has no use for either, and a device node in an image
// has been a way to the host before.
type kind uint8

const (
	kindFile kind = iota
	kindDir
	kindSymlink
	kindFIFO
)

// An inode is one file, directory, symbolic link or FIFO of a [tree]. Hard
// links are several names of one inode.
type inode struct {
	kind     kind
	mode     uint16 // permission bits with setuid, setgid and sticky
	uid, gid uint32
	mtime    int64
	mtimeNs  uint32
	links    uint32 // names that lead here; directories are counted at writing

	size   int64   // of a file
	data   content // of a file with size > 0
	target string  // of a symbolic link

	children map[string]entry // of a directory
	opaque   int              // of a directory: the last layer that hid what lower layers put below it
}

// An entry is a name in a directory: the inode it leads to and the layer that
// put it there.
type entry struct {
	*inode
	layer int
}

// A content is where the bytes of a file can be read from. It is opened once,
// when the image is written.
type content interface {
	open() (io.ReadCloser, error)
}

// A tree is a root filesystem held in memory as an index: names and metadata
// only, with the bytes elsewhere. Nothing in a tree has ever been a path on
// the host, so no name in it can lead anywhere there.
//
// A tree is built in layers, lowest first, the way OCI images are: whiteouts of
// a layer take away what lower layers brought, never what it brings itself.
type tree struct {
	root  *inode
	layer int // the layer being added
	files int // names in the tree, the root not counted
}

func newTree() *tree {
	return &tree{root: newDir(0o755)}
}

func newDir(mode uint16) *inode {
	return &inode{kind: kindDir, mode: mode, children: map[string]entry{}}
}

func (n *inode) setTime(t time.Time) {
	// Times before 1970 exist in broken archives only, and EROFS has no sign.
	if s := t.Unix(); s > 0 {
		n.mtime, n.mtimeNs = s, uint32(t.Nanosecond())
	}
}

// refused is the error for an image that must not become a template: it is
// the image's fault and stays so.
func refused(format string, args ...any) error {
	return &hutch.Error{Kind: hutch.Invalid, Op: "image", Msg: "image refused: " + fmt.Sprintf(format, args...)}
}

// cleanName returns name as path elements below the root. A name that is
// absolute, climbs with "..", or is longer than Linux allows is refused; "."
// and "./" are the root, which is no elements.
func cleanName(name string) ([]string, error) {
	switch {
	case len(name) > maxPath:
		return nil, refused("a path of %d bytes", len(name))
	case strings.HasPrefix(name, "/"):
		return nil, refused("absolute path %q", name)
	case strings.IndexByte(name, 0) >= 0:
		return nil, refused("a NUL byte in path %q", name)
	}
	var parts []string
	for p := range strings.SplitSeq(name, "/") {
		switch {
		case p == "" || p == ".":
		case p == "..":
			return nil, refused("path %q climbs out with \"..\"", name)
		case len(p) > maxName:
			return nil, refused("a name of %d bytes in a path", len(p))
		default:
			parts = append(parts, p)
		}
	}
	return parts, nil
}

// dir returns the directory at parts, making what is missing. An element that
// exists and is not a directory is refused: a symbolic link on the way is how
// archives write, delete and link where their names do not say.
func (t *tree) dir(parts []string, b *budget) (*inode, error) {
	n := t.root
	for i, p := range parts {
		c := n.children[p].inode
		if c == nil {
			c = newDir(0o755)
			if err := t.put(n, p, c, b); err != nil {
				return nil, err
			}
		}
		if c.kind != kindDir {
			return nil, refused("%q lies below %q, which is not a directory", path.Join(parts...), path.Join(parts[:i+1]...))
		}
		n = c
	}
	return n, nil
}

// find returns the inode at parts, or nil. It passes through directories only.
func (t *tree) find(parts []string) (*inode, error) {
	n := t.root
	for i, p := range parts {
		if n.kind != kindDir {
			return nil, refused("%q lies below %q, which is not a directory", path.Join(parts...), path.Join(parts[:i]...))
		}
		if n = n.children[p].inode; n == nil {
			return nil, nil
		}
	}
	return n, nil
}

// put names n in dir on behalf of the layer being added. It replaces what a
// lower layer had there; within one layer only something of the same kind may
// be named again, and a directory is then the same directory.
func (t *tree) put(dir *inode, name string, n *inode, b *budget) error {
	if old, ok := dir.children[name]; ok {
		if old.layer == t.layer && old.kind != n.kind {
			return refused("%q is named twice in one layer, as different things", name)
		}
		if old.kind == kindDir && n.kind != kindDir && t.holds(old.inode) {
			return refused("%q is a directory with contents and something else in one layer", name)
		}
		t.unlink(dir, name)
	}
	if err := b.name(len(name) + len(n.target)); err != nil {
		return err
	}
	if err := b.live(t.files + 1); err != nil {
		return err
	}
	if n.links == math.MaxUint32 {
		return refused("too many hard links to one file")
	}
	dir.children[name] = entry{n, t.layer}
	n.links++
	t.files++
	return nil
}

// holds reports whether the layer being added has put anything below dir. A
// directory it looks into is named once more at most, so the cost is bounded.
func (t *tree) holds(dir *inode) bool {
	for _, c := range dir.children {
		if c.layer == t.layer || c.kind == kindDir && t.holds(c.inode) {
			return true
		}
	}
	return false
}

// unlink takes name out of dir with everything below it.
func (t *tree) unlink(dir *inode, name string) {
	n, ok := dir.children[name]
	if !ok {
		return
	}
	for c := range n.children {
		t.unlink(n.inode, c)
	}
	n.links--
	t.files--
	delete(dir.children, name)
}

// whiteout takes from dir what lower layers put at name. What the layer being
// added put there or below stays, wherever in the layer the whiteout stands.
func (t *tree) whiteout(dir *inode, name string) {
	n, ok := dir.children[name]
	if !ok {
		return
	}
	if n.kind == kindDir {
		t.hide(n.inode)
	}
	if n.layer != t.layer && len(n.children) == 0 {
		t.unlink(dir, name)
	}
}

// hide takes from dir everything that lower layers put below it.
func (t *tree) hide(dir *inode) {
	if dir.opaque == t.layer && t.layer > 0 {
		return // nothing of lower layers is left; a second look would only cost time
	}
	dir.opaque = t.layer
	for c := range dir.children {
		t.whiteout(dir, c)
	}
}

// mountPoints are directories that the host mounts over in every sandbox. They
// exist, and are directories, in every template, whatever its source said: a
// link in their place would let an image choose where our mounts land.
var mountPoints = []struct {
	name string
	mode uint16
}{
	{".hutch", 0o755}, {"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555},
}

// furnish adds what every sandbox relies on: the mount points, a /tmp, the
// working directory of the contract, and the files the host fills in.
func (t *tree) furnish() error {
	var free *budget // our own names cost nothing
	t.layer++
	for _, m := range mountPoints {
		old, ok := t.root.children[m.name]
		if ok && old.kind == kindDir && m.name != ".hutch" {
			continue
		}
		n := newDir(m.mode)
		if err := t.put(t.root, m.name, n, free); err != nil {
			return err
		}
	}
	for name, mode := range map[string]uint16{"tmp": 0o1777, "workspace": 0o755, "etc": 0o755} {
		if _, ok := t.root.children[name]; !ok {
			n := newDir(mode)
			if err := t.put(t.root, name, n, free); err != nil {
				return err
			}
		}
	}
	etc := t.root.children["etc"].inode
	if etc.kind != kindDir {
		return refused("/etc is not a directory")
	}
	for name, content := range map[string]string{
		"resolv.conf": "",
		"hostname":    "sandbox\n",
		"hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
	} {
		if _, ok := etc.children[name]; ok {
			continue
		}
		n := &inode{kind: kindFile, mode: 0o644, size: int64(len(content)), data: hostBytes(content)}
		if err := t.put(etc, name, n, free); err != nil {
			return err
		}
	}
	return nil
}
