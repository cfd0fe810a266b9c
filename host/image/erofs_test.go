package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"pgregory.net/rapid"
)

// memSpool returns a spool on a file that the test removes.
func memSpool(t testing.TB) *spool {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return newSpool(f)
}

// tarOf packs headers; a header's Name is its path and files hold body[Name].
func tarOf(t testing.TB, hs []tar.Header, body map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range hs {
		h := hs[i]
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(body[h.Name]))
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("header %q: %v", h.Name, err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(body[h.Name]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func erofsOf(t testing.TB, tr *tree) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := writeEROFS(&b, tr)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) || n%blockSize != 0 {
		t.Fatalf("size reported %d, written %d", n, b.Len())
	}
	return b.Bytes()
}

// readBack opens an image with go-erofs, an implementation other than ours.
func readBack(t testing.TB, img []byte) fs.FS {
	t.Helper()
	fsys, err := erofs.Open(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// fsck checks an image with erofs-utils, where they are installed.
func fsck(t testing.TB, img []byte) {
	t.Helper()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		return
	}
	name := filepath.Join(t.TempDir(), "image.erofs")
	if err := os.WriteFile(name, img, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, name).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
}

// TestEROFSAgainstTar lays random archives out and reads every entry back with
// another implementation: type, mode, owner, time, size, target and contents.
func TestEROFSAgainstTar(t *testing.T) {
	name := rapid.StringMatching(`[!-.0-~]{1,40}`).Filter(func(s string) bool {
		return s != "." && s != ".." && !strings.HasPrefix(s, whiteoutPrefix)
	})
	rapid.Check(t, func(rt *rapid.T) {
		dirs := []string{""}
		seen := map[string]bool{}
		var hs []tar.Header
		body := map[string][]byte{}
		var files []string
		for range rapid.IntRange(0, 120).Draw(rt, "entries") {
			p := path.Join(rapid.SampledFrom(dirs).Draw(rt, "dir"), name.Draw(rt, "name"))
			if seen[p] {
				continue
			}
			seen[p] = true
			h := tar.Header{
				Name: p, Mode: int64(rapid.Uint16Range(0, 0o7777).Draw(rt, "mode")),
				Uid: int(rapid.Uint32().Draw(rt, "uid")), Gid: int(rapid.Uint32().Draw(rt, "gid")),
				ModTime: time.Unix(rapid.Int64Range(1, 1<<40).Draw(rt, "sec"), rapid.Int64Range(0, 999_999_999).Draw(rt, "nsec")),
			}
			switch k := rapid.IntRange(0, 9).Draw(rt, "kind"); {
			case k < 3:
				h.Typeflag = tar.TypeDir
				dirs = append(dirs, p)
			case k < 4:
				h.Typeflag = tar.TypeSymlink
				h.Linkname = strings.Repeat("a/", rapid.IntRange(0, 2040).Draw(rt, "target")) + "x"
			case k < 5 && len(files) > 0:
				h.Typeflag, h.Linkname = tar.TypeLink, rapid.SampledFrom(files).Draw(rt, "link")
			default:
				h.Typeflag = tar.TypeReg
				size := rapid.SampledFrom([]int{0, 1, 100, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 100_000}).Draw(rt, "size")
				body[p] = bytes.Repeat([]byte{byte(size), byte(len(hs)), 3}, size/3+1)[:size]
				files = append(files, p)
			}
			hs = append(hs, h)
		}
		tr := newTree()
		if err := tr.addLayer(bytes.NewReader(tarOf(t, hs, body)), memSpool(t), &budget{Limits: Limits{}.withDefaults()}); err != nil {
			rt.Fatal(err)
		}
		img := erofsOf(t, tr)
		if again := erofsOf(t, tr); !bytes.Equal(img, again) {
			rt.Fatal("the same tree gave two images")
		}
		fsck(t, img)
		fsys := readBack(t, img)
		for _, h := range hs {
			check(rt, fsys, h, hs, body)
		}
		count := 0
		if err := fs.WalkDir(fsys, ".", func(string, fs.DirEntry, error) error { count++; return nil }); err != nil {
			rt.Fatal(err)
		}
		if count != len(hs)+1 {
			rt.Fatalf("%d entries in the image, %d in the archive", count-1, len(hs))
		}
	})
}

func check(rt *rapid.T, fsys fs.FS, h tar.Header, hs []tar.Header, body map[string][]byte) {
	want := h
	if h.Typeflag == tar.TypeLink {
		for _, o := range hs {
			if o.Name == h.Linkname {
				want = o
				break
			}
		}
	}
	info, err := fs.Lstat(fsys, h.Name)
	if err != nil {
		rt.Fatalf("%q: %v", h.Name, err)
	}
	st := info.Sys().(*erofs.Stat)
	typ := map[byte]fs.FileMode{tar.TypeReg: 0, tar.TypeDir: fs.ModeDir, tar.TypeSymlink: fs.ModeSymlink}[want.Typeflag]
	if info.Mode().Type() != typ {
		rt.Fatalf("%q is %v", h.Name, info.Mode())
	}
	if got := tarMode(st.Mode); got != want.Mode {
		rt.Fatalf("%q has mode %o, want %o", h.Name, got, want.Mode)
	}
	if st.UID != uint32(want.Uid) || st.GID != uint32(want.Gid) || !info.ModTime().Equal(want.ModTime) {
		rt.Fatalf("%q: %+v %v, want %d %d %v", h.Name, st, info.ModTime(), want.Uid, want.Gid, want.ModTime)
	}
	switch want.Typeflag {
	case tar.TypeSymlink:
		if got, err := fs.ReadLink(fsys, h.Name); err != nil || got != want.Linkname {
			rt.Fatalf("%q leads to %q (%v)", h.Name, got, err)
		}
	case tar.TypeReg:
		if st.InodeLayout != layoutPlain {
			rt.Fatalf("%q has its bytes beside its inode: the runtime cannot map it", h.Name)
		}
		if got, err := fs.ReadFile(fsys, h.Name); err != nil || !bytes.Equal(got, body[want.Name]) {
			rt.Fatalf("%q holds %d bytes (%v), want %d", h.Name, len(got), err, len(body[want.Name]))
		}
		names := 0
		for _, o := range hs {
			if o.Name == want.Name || o.Typeflag == tar.TypeLink && o.Linkname == want.Name {
				names++
			}
		}
		if st.Nlink != names {
			rt.Fatalf("%q counts %d links, want %d", h.Name, st.Nlink, names)
		}
	}
}

func tarMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, v := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= v
		}
	}
	return mode
}

// TestEROFSBigDirectory covers directories of many blocks, with names that sort
// before "." and "..".
func TestEROFSBigDirectory(t *testing.T) {
	tr := newTree()
	tr.layer = 1
	for i := range 5000 {
		d, err := tr.dir([]string{"d"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.put(d, fmt.Sprintf("%c%d-%s", "+.-az"[i%5], i, strings.Repeat("n", i%200)), &inode{kind: kindFile, mode: 0o644}, nil); err != nil {
			t.Fatal(err)
		}
	}
	img := erofsOf(t, tr)
	fsck(t, img)
	ents, err := fs.ReadDir(readBack(t, img), "d")
	if err != nil || len(ents) != 5000 {
		t.Fatalf("%d entries, %v", len(ents), err)
	}
}

// growing is content with more bytes than its inode says.
type growing struct{}

func (growing) open() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("12345")), nil }

func TestEROFSRefusesChangedFile(t *testing.T) {
	for _, size := range []int64{4, 6} {
		tr := newTree()
		if err := tr.put(tr.root, "f", &inode{kind: kindFile, size: size, data: growing{}}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := writeEROFS(io.Discard, tr); err == nil {
			t.Errorf("a file said to be of %d bytes was written with 5", size)
		}
	}
}
