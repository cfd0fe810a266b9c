package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

// addDirectory lays a directory of the host over t as one more layer. It is
// for directories that we filled ourselves; files are opened later, beneath
// root, when the image is written. It returns the bytes of the files it added.
func (t *tree) addDirectory(root *os.Root) (int64, error) {
	t.layer++
	type identity struct{ dev, ino uint64 }
	linked := map[identity]*inode{}
	var bytes int64
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("no owner known on this system")
		}
		n := &inode{mode: uint16(st.Mode & 0o7777), uid: st.Uid, gid: st.Gid}
		n.setTime(time.Unix(st.Mtim.Sec, st.Mtim.Nsec))
		if name == "." {
			r := t.root
			r.mode, r.uid, r.gid, r.mtime, r.mtimeNs = n.mode, n.uid, n.gid, n.mtime, n.mtimeNs
			return nil
		}
		parts := strings.Split(name, "/")
		dir, err := t.dir(parts[:len(parts)-1], nil)
		if err != nil {
			return err
		}
		base := path.Base(name)
		switch info.Mode().Type() {
		case fs.ModeDir:
			n.kind, n.children = kindDir, map[string]entry{}
			if old := dir.children[base]; old.inode != nil && old.kind == kindDir {
				o := old.inode
				o.mode, o.uid, o.gid, o.mtime, o.mtimeNs = n.mode, n.uid, n.gid, n.mtime, n.mtimeNs
				return nil
			}
		case fs.ModeSymlink:
			n.kind = kindSymlink
			if n.target, err = root.Readlink(name); err != nil {
				return err
			}
		case fs.ModeNamedPipe:
			n.kind = kindFIFO
		case 0:
			id := identity{st.Dev, st.Ino}
			if first := linked[id]; first != nil {
				return t.put(dir, base, first, nil)
			}
			n.size = info.Size()
			n.data = hostFile{root, name}
			bytes += n.size
			if st.Nlink > 1 {
				linked[id] = n
			}
		default:
			return fmt.Errorf("%s is a %v, which a template cannot hold", name, info.Mode().Type())
		}
		return t.put(dir, base, n, nil)
	})
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", root.Name(), err)
	}
	return bytes, nil
}

// hostFile is the content of a file beneath a directory of ours.
type hostFile struct {
	root *os.Root
	name string
}

func (h hostFile) open() (io.ReadCloser, error) { return h.root.Open(h.name) }

// hostBytes is content that is in memory already.
type hostBytes []byte

func (b hostBytes) open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b)), nil
}
