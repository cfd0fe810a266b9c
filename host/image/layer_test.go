package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/hutch-sh/hutch"
)

// Short forms of archive entries.
func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
func dir(name string) tar.Header  { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
func sym(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}
}
func hard(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}
}

// overlay lays layers over each other; every file holds "<layer>:<name>".
func overlay(t testing.TB, lim Limits, layers ...[]tar.Header) (*tree, error) {
	t.Helper()
	tr, sp, b := newTree(), memSpool(t), &budget{Limits: lim.withDefaults()}
	for i, hs := range layers {
		body := map[string][]byte{}
		for _, h := range hs {
			body[h.Name] = []byte{byte('1' + i), ':'}
			body[h.Name] = append(body[h.Name], h.Name...)
		}
		if err := tr.addLayer(bytes.NewReader(tarOf(t, hs, body)), sp, b); err != nil {
			return nil, err
		}
	}
	return tr, nil
}

func TestHostileLayers(t *testing.T) {
	deep := strings.Repeat("a/", 2040) + "x"
	for _, tt := range []struct {
		name   string
		lim    Limits
		layers [][]tar.Header
		want   hutch.Kind
	}{
		{"dot dot", Limits{}, [][]tar.Header{{file("../etc/passwd")}}, hutch.Invalid},
		{"dot dot inside", Limits{}, [][]tar.Header{{file("a/../../etc/passwd")}}, hutch.Invalid},
		{"dot dot that stays inside", Limits{}, [][]tar.Header{{file("a/../b")}}, hutch.Invalid},
		{"dot dot as a directory", Limits{}, [][]tar.Header{{dir("..")}}, hutch.Invalid},
		{"absolute", Limits{}, [][]tar.Header{{file("/etc/passwd")}}, hutch.Invalid},
		{"absolute directory", Limits{}, [][]tar.Header{{dir("/")}}, hutch.Invalid},
		{"root as a file", Limits{}, [][]tar.Header{{file("./.")}}, hutch.Invalid},
		{"root as a link", Limits{}, [][]tar.Header{{sym(".", "/etc")}}, hutch.Invalid},
		{"name too long", Limits{}, [][]tar.Header{{file(strings.Repeat("n", 256))}}, hutch.Invalid},
		{"path too long", Limits{}, [][]tar.Header{{file(strings.Repeat("a/", 2048) + "x")}}, hutch.Invalid},
		{"character device", Limits{}, [][]tar.Header{{{Name: "dev/cuse", Typeflag: tar.TypeChar, Devmajor: 10, Devminor: 203}}}, hutch.Invalid},
		{"block device", Limits{}, [][]tar.Header{{{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}}}, hutch.Invalid},
		{"unknown type", Limits{}, [][]tar.Header{{{Name: "x", Typeflag: 'Z'}}}, hutch.Invalid},
		{"contiguous file", Limits{}, [][]tar.Header{{{Name: "x", Typeflag: tar.TypeCont}}}, hutch.Invalid},

		{"write through a link", Limits{}, [][]tar.Header{{sym("a", "/etc"), file("a/passwd")}}, hutch.Invalid},
		{"write through a link of a lower layer", Limits{}, [][]tar.Header{{sym("a", "../../etc")}, {file("a/passwd")}}, hutch.Invalid},
		{"write through a chain of links", Limits{}, [][]tar.Header{{dir("d"), sym("d/up", ".."), sym("e", "d/up/d")}, {file("e/x")}}, hutch.Invalid},
		{"write through a link that is replaced too late", Limits{}, [][]tar.Header{{sym("a", "/etc")}, {file("a/x"), dir("a")}}, hutch.Invalid},
		{"write through a file", Limits{}, [][]tar.Header{{file("a"), file("a/b")}}, hutch.Invalid},
		{"whiteout through a link", Limits{}, [][]tar.Header{{dir("etc"), file("etc/passwd"), sym("a", "etc")}, {file("a/.wh.passwd")}}, hutch.Invalid},
		{"opaque through a link", Limits{}, [][]tar.Header{{dir("etc"), sym("a", "etc")}, {file("a/.wh..wh..opq")}}, hutch.Invalid},
		{"hard link through a link", Limits{}, [][]tar.Header{{dir("etc"), file("etc/passwd"), sym("a", "etc"), hard("b", "a/passwd")}}, hutch.Invalid},
		{"hard link below a link", Limits{}, [][]tar.Header{{file("f"), sym("a", "etc"), hard("a/b", "f")}}, hutch.Invalid},
		{"hard link to a link", Limits{}, [][]tar.Header{{sym("a", "/etc/shadow"), hard("b", "a")}}, hutch.Invalid},
		{"hard link to a directory", Limits{}, [][]tar.Header{{dir("a"), hard("b", "a")}}, hutch.Invalid},
		{"hard link to the root", Limits{}, [][]tar.Header{{hard("b", ".")}}, hutch.Invalid},
		{"hard link outside", Limits{}, [][]tar.Header{{hard("b", "../../etc/shadow")}}, hutch.Invalid},
		{"hard link to the host", Limits{}, [][]tar.Header{{hard("b", "/etc/shadow")}}, hutch.Invalid},
		{"hard link to what comes later", Limits{}, [][]tar.Header{{hard("b", "a"), file("a")}}, hutch.Invalid},
		{"hard link to what was taken away", Limits{}, [][]tar.Header{{file("a")}, {file(".wh.a"), hard("b", "a")}}, hutch.Invalid},

		{"whiteout of nothing", Limits{}, [][]tar.Header{{file("a/.wh.")}}, hutch.Invalid},
		{"whiteout of the directory", Limits{}, [][]tar.Header{{file("a/.wh..")}}, hutch.Invalid},
		{"whiteout of the parent", Limits{}, [][]tar.Header{{file("a/.wh...")}}, hutch.Invalid},

		{"link, then directory, in one layer", Limits{}, [][]tar.Header{{sym("a", "/etc"), dir("a"), file("a/x")}}, hutch.Invalid},
		{"directory, then link, in one layer", Limits{}, [][]tar.Header{{dir("a"), file("a/x"), sym("a", "/etc")}}, hutch.Invalid},
		{"file, then link, in one layer", Limits{}, [][]tar.Header{{file("a"), sym("a", "/etc")}}, hutch.Invalid},
		{"implied directory, then link, in one layer", Limits{}, [][]tar.Header{{dir("a")}, {file("a/x"), sym("a", "/etc")}}, hutch.Invalid},
		{"empty link", Limits{}, [][]tar.Header{{sym("a", "")}}, hutch.Invalid},
		{"link too long", Limits{}, [][]tar.Header{{sym("a", strings.Repeat("x", 4096))}}, hutch.Invalid},

		{"files", Limits{Files: 3}, [][]tar.Header{{file("a"), file("b")}, {file("c"), file("d")}}, hutch.TooLarge},
		{"the same file again and again", Limits{Files: 3}, [][]tar.Header{{file("a"), file("a"), file("a"), file("a")}}, hutch.TooLarge},
		{"directories of one entry", Limits{Files: 1000}, [][]tar.Header{{file(deep)}}, hutch.TooLarge},
		{"names", Limits{NameBytes: 1000}, [][]tar.Header{{sym("a", strings.Repeat("x", 600)), sym("b", strings.Repeat("x", 600))}}, hutch.TooLarge},
		{"bytes", Limits{TotalBytes: 7}, [][]tar.Header{{file("a")}, {file("b"), file("c")}}, hutch.TooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := overlay(t, tt.lim, tt.layers...)
			if err == nil {
				t.Fatal("accepted")
			}
			if hutch.KindOf(err) != tt.want {
				t.Fatalf("kind %d: %v", hutch.KindOf(err), err)
			}
		})
	}
}

// TestLayers lists the names that layers leave, links with their targets and
// files with the layer their contents are from.
func TestLayers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		layers [][]tar.Header
		want   []string
	}{
		{"nothing", nil, nil},
		{"prefixes", [][]tar.Header{{dir("./"), dir("./a/"), file("./a/b"), file("c//d")}}, []string{"a/", "a/b=1", "c/", "c/d=1"}},
		{"replace", [][]tar.Header{{file("a"), file("b")}, {file("a")}}, []string{"a=2", "b=1"}},
		{"last of a layer wins", [][]tar.Header{{sym("a", "x"), sym("a", "y")}}, []string{"a->y"}},
		{"file over directory", [][]tar.Header{{file("a/b"), file("a/c/d")}, {file("a")}}, []string{"a=2"}},
		{"link over directory", [][]tar.Header{{file("a/b")}, {sym("a", "/etc")}}, []string{"a->/etc"}},
		{"directory over link", [][]tar.Header{{sym("a", "/etc")}, {dir("a"), file("a/b")}}, []string{"a/", "a/b=2"}},
		{"directory over directory", [][]tar.Header{{file("a/b")}, {dir("a"), file("a/c")}}, []string{"a/", "a/b=1", "a/c=2"}},
		{"whiteout", [][]tar.Header{{file("a/b"), file("a/c")}, {file("a/.wh.b")}}, []string{"a/", "a/c=1"}},
		{"whiteout of a directory", [][]tar.Header{{file("a/b/c"), file("a/d")}, {file("a/.wh.b")}}, []string{"a/", "a/d=1"}},
		{"whiteout of nothing there", [][]tar.Header{{file("a")}, {file(".wh.b")}}, []string{"a=1"}},
		{"whiteout before the replacement", [][]tar.Header{{file("a/b")}, {file(".wh.a"), file("a/c")}}, []string{"a/", "a/c=2"}},
		{"whiteout after the replacement", [][]tar.Header{{file("a/b")}, {file("a/c"), file(".wh.a")}}, []string{"a/", "a/c=2"}},
		{"whiteout after a deep replacement", [][]tar.Header{{file("a/b/c")}, {file("a/b/d"), file(".wh.a")}}, []string{"a/", "a/b/", "a/b/d=2"}},
		{"whiteout and file of one layer", [][]tar.Header{{file("a")}, {file("a"), file(".wh.a")}}, []string{"a=2"}},
		{"whiteout and empty directory of one layer", [][]tar.Header{{file("a/b")}, {dir("a"), file(".wh.a")}}, []string{"a/"}},
		{"whiteout frees a link", [][]tar.Header{{sym("a", "/etc")}, {file(".wh.a"), file("a/b")}}, []string{"a/", "a/b=2"}},
		{"opaque", [][]tar.Header{{file("a/b"), file("a/c/d")}, {file("a/c/e"), file("a/.wh..wh..opq"), file("a/f")}}, []string{"a/", "a/c/", "a/c/e=2", "a/f=2"}},
		{"opaque root", [][]tar.Header{{file("a"), file("b/c")}, {file(".wh..wh..opq"), file("d")}}, []string{"d=2"}},
		{"opaque twice in two layers", [][]tar.Header{{file("a/b")}, {file("a/.wh..wh..opq"), file("a/c")}, {file("a/.wh..wh..opq")}}, []string{"a/"}},
		{"bookkeeping of AUFS", [][]tar.Header{{dir(".wh..wh.plnk"), file(".wh..wh.aufs"), file("a")}}, []string{"a=1"}},
		{"whiteout of a layer's own file is none", [][]tar.Header{{file("a"), file(".wh.a")}}, []string{"a=1"}},
		{"hard link", [][]tar.Header{{file("a"), hard("b", "a"), hard("c", "/b")}}, []string{"a=1", "b=1", "c=1"}},
		{"hard link to itself", [][]tar.Header{{file("a"), hard("a", "a")}}, []string{"a=1"}},
		{"hard link to a lower layer", [][]tar.Header{{file("a")}, {hard("b", "a")}, {file("a")}}, []string{"a=3", "b=1"}},
		{"hard link outlives its first name", [][]tar.Header{{file("a"), hard("b", "a")}, {file(".wh.a")}}, []string{"b=1"}},
		{"pipe", [][]tar.Header{{{Name: "p", Typeflag: tar.TypeFifo}}}, []string{"p|"}},
		{"a link to anywhere is only a link", [][]tar.Header{{sym("a", "../../../../etc/shadow")}}, []string{"a->../../../../etc/shadow"}},
		{"odd names", [][]tar.Header{{file("a\\..\\b"), file("..."), file("\xff\xfe"), file(" ")}}, []string{" =1", "...=1", "a\\..\\b=1", "\xff\xfe=1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr, err := overlay(t, Limits{}, tt.layers...)
			if err != nil {
				t.Fatal(err)
			}
			got := list(t, tr)
			if !slices.Equal(got, tt.want) {
				t.Fatalf("got  %q\nwant %q", got, tt.want)
			}
			if tr.files != len(got) {
				t.Errorf("counted %d names of %d", tr.files, len(got))
			}
			fsck(t, erofsOf(t, tr))
		})
	}
}

// list reads the tree back from its image.
func list(t *testing.T, tr *tree) []string {
	t.Helper()
	fsys := readBack(t, erofsOf(t, tr))
	var out []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
		case d.IsDir():
			out = append(out, name+"/")
		case d.Type() == fs.ModeSymlink:
			to, err := fs.ReadLink(fsys, name)
			if err != nil {
				return err
			}
			out = append(out, name+"->"+to)
		case d.Type() == fs.ModeNamedPipe:
			out = append(out, name+"|")
		default:
			b, err := fs.ReadFile(fsys, name)
			if err != nil {
				return err
			}
			layer, _, _ := strings.Cut(string(b), ":")
			out = append(out, name+"="+layer)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRepeatedWhiteouts makes sure that a layer cannot buy time with markers: a
// quarter of a million looks at a directory of as many files must cost little.
func TestRepeatedWhiteouts(t *testing.T) {
	const n = 50_000
	tr, b := newTree(), &budget{Limits: Limits{}.withDefaults()}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		h := tar.Header{Name: "d/" + strings.Repeat("x", i%200) + string(rune('a'+i%26)) + strings.Repeat("y", i/200), Typeflag: tar.TypeReg}
		if len(h.Name) > 250 {
			h.Name = h.Name[:250]
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		for _, name := range []string{"d/.wh..wh..opq", ".wh.d"} {
			if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tr.layer = 1 // as if there were a lower layer
	if err := tr.addLayer(&buf, memSpool(t), b); err != nil {
		t.Fatal(err)
	}
	if len(tr.root.children["d"].children) == 0 {
		t.Error("the layer's own files are gone")
	}
}

func TestDamagedLayers(t *testing.T) {
	whole := tarOf(t, []tar.Header{file("a"), dir("d"), file("d/b")}, map[string][]byte{"a": bytes.Repeat([]byte("x"), 2000), "d/b": []byte("y")})
	for name, b := range map[string][]byte{
		"cut in a header":   whole[:700],
		"cut in a file":     whole[:1500],
		"no archive at all": bytes.Repeat([]byte("not a tar"), 200),
		"damaged header":    append(bytes.Repeat([]byte{1}, 148), whole[148:]...),
	} {
		err := newTree().addLayer(bytes.NewReader(b), memSpool(t), &budget{Limits: Limits{}.withDefaults()})
		if hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fullDisk is a spool file on a full disk.
type fullDisk struct{ io.ReaderAt }

func (fullDisk) WriteAt([]byte, int64) (int, error) { return 0, errors.New("no space left on device") }
func (fullDisk) Close() error                       { return nil }

func TestFullDisk(t *testing.T) {
	b := tarOf(t, []tar.Header{file("a")}, map[string][]byte{"a": []byte("x")})
	err := newTree().addLayer(bytes.NewReader(b), newSpool(fullDisk{}), &budget{Limits: Limits{}.withDefaults()})
	if hutch.KindOf(err) != hutch.Internal || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("blamed the image for the disk: %v", err)
	}
}

// FuzzLayer feeds arbitrary bytes as two layers. Whatever is accepted must give
// an image that can be read.
func FuzzLayer(f *testing.F) {
	for _, hs := range [][]tar.Header{
		{file("a"), dir("d"), sym("d/l", "../a"), hard("h", "a")},
		{file(".wh.a"), file("d/.wh..wh..opq"), {Name: "p", Typeflag: tar.TypeFifo}},
	} {
		f.Add(tarOf(f, hs, map[string][]byte{"a": []byte("text")}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Limits{Files: 1000, TotalBytes: 1 << 20, NameBytes: 1 << 16}
		tr, sp, bud := newTree(), memSpool(t), &budget{Limits: lim.withDefaults()}
		for range 2 {
			if err := tr.addLayer(bytes.NewReader(b), sp, bud); err != nil {
				if k := hutch.KindOf(err); k != hutch.Invalid && k != hutch.TooLarge {
					t.Fatal(err)
				}
				return
			}
		}
		names := 0
		err := fs.WalkDir(readBack(t, erofsOf(t, tr)), ".", func(string, fs.DirEntry, error) error { names++; return nil })
		if err != nil || names != tr.files+1 {
			t.Fatalf("%d names in the image, %d in the tree: %v", names-1, tr.files, err)
		}
	})
}

// TestFurnish checks that the host's mount points are directories whatever the
// image had in their places.
func TestFurnish(t *testing.T) {
	for _, hs := range [][]tar.Header{
		nil,
		{sym(".hutch", "/tmp"), sym("proc", "/etc"), file("sys"), sym("dev", "/"), sym("tmp", "/var")},
		{file(".hutch/hutch-agent"), file("dev/x"), file("etc/hosts"), file("etc/resolv.conf")},
	} {
		tr, err := overlay(t, Limits{}, hs)
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.furnish(); err != nil {
			t.Fatal(err)
		}
		fsys := readBack(t, erofsOf(t, tr))
		for _, d := range []string{".hutch", "proc", "sys", "dev"} {
			if st, err := fs.Lstat(fsys, d); err != nil || !st.IsDir() {
				t.Errorf("%s: %v %v", d, st, err)
			}
		}
		if ents, err := fs.ReadDir(fsys, ".hutch"); err != nil || len(ents) != 0 {
			t.Errorf(".hutch holds %v (%v)", ents, err)
		}
		for _, f := range []string{"workspace", "tmp", "etc/hosts", "etc/hostname", "etc/resolv.conf"} {
			if _, err := fs.Lstat(fsys, f); err != nil {
				t.Error(err)
			}
		}
	}
	tr, err := overlay(t, Limits{}, []tar.Header{sym("etc", "/home")})
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.furnish(); hutch.KindOf(err) != hutch.Invalid {
		t.Errorf("an /etc that leads elsewhere: %v", err)
	}
}
