package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutch-sh/hutch"
)

// put makes an image of one file in s.
func put(t *testing.T, s *Store, name, content string) Image {
	t.Helper()
	tr := newTree()
	if err := tr.put(tr.root, "f", &inode{kind: kindFile, mode: 0o644, size: int64(len(content)), data: hostBytes(content)}, nil); err != nil {
		t.Fatal(err)
	}
	img, err := s.commit(t.Context(), Image{Name: name, DisplayName: name}, tr)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestStore(t *testing.T) {
	s := open(t, Options{})
	a := put(t, s, "a", "one")
	b := put(t, s, "b", "two")
	imgs, err := s.Images()
	if err != nil || len(imgs) != 2 || imgs[0].Digest != a.Digest || imgs[1].Digest != b.Digest {
		t.Fatalf("%+v %v", imgs, err)
	}
	name, err := s.Rootfs(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil || digestOf(raw) != string(a.Digest) || int64(len(raw)) != a.Size {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
	if err := s.Verify(t.Context(), a.Digest); err != nil {
		t.Error(err)
	}

	// Another program sees the same.
	again, err := Open(s.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if imgs, err := again.Images(); err != nil || len(imgs) != 2 {
		t.Errorf("%v %v", imgs, err)
	}
	if err := s.Remove(a.Digest); err != nil {
		t.Error(err)
	}
	if _, err := s.Rootfs(a.Digest); hutch.KindOf(err) != hutch.NotFound {
		t.Error(err)
	}
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the file of a removed image is still there")
	}
	if err := s.Remove(a.Digest); hutch.KindOf(err) != hutch.NotFound {
		t.Error(err)
	}
	if tm := b.Template(); tm.Name != "b" || tm.Image != b.Digest || tm.Status != hutch.TemplateActive {
		t.Errorf("%+v", tm)
	}
}

func TestBadDigests(t *testing.T) {
	s := open(t, Options{})
	for _, d := range []hutch.Digest{"", "sha256:", "../../etc/passwd", hutch.Digest("sha256:" + strings.Repeat("A", 64)),
		hutch.Digest("sha256:../" + strings.Repeat("a", 61)), hutch.Digest("sha256:" + strings.Repeat("a", 64) + "\n")} {
		for what, err := range map[string]error{
			"Remove": s.Remove(d),
			"Verify": s.Verify(t.Context(), d),
			"Rootfs": func() error { _, err := s.Rootfs(d); return err }(),
		} {
			if hutch.KindOf(err) != hutch.Invalid {
				t.Errorf("%s(%q): %v", what, d, err)
			}
		}
	}
}

// TestHalfWritten makes every state an interrupted write can leave.
func TestHalfWritten(t *testing.T) {
	s := open(t, Options{})
	img := put(t, s, "a", "one")
	base, err := s.base(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(base + manifestSuffix)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(base + imageSuffix)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"image without manifest", func() error { return os.Remove(base + manifestSuffix) }},
		{"manifest without image", func() error { return os.Remove(base + imageSuffix) }},
		{"image cut short", func() error { return os.WriteFile(base+imageSuffix, whole[:blockSize], 0o444) }},
		{"image is a link", func() error {
			if err := os.Rename(base+imageSuffix, base+".elsewhere"); err != nil {
				return err
			}
			return os.Symlink(base+".elsewhere", base+imageSuffix)
		}},
		{"image is a directory", func() error {
			if err := os.Remove(base + imageSuffix); err != nil {
				return err
			}
			return os.Mkdir(base+imageSuffix, 0o700)
		}},
		{"empty manifest", func() error { return os.WriteFile(base+manifestSuffix, nil, 0o444) }},
		{"manifest cut short", func() error { return os.WriteFile(base+manifestSuffix, manifest[:len(manifest)/2], 0o444) }},
		{"manifest of another image", func() error {
			return os.WriteFile(base+manifestSuffix, bytes.ReplaceAll(manifest, []byte(img.Digest[7:]), bytes.Repeat([]byte("0"), 64)), 0o444)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, f := range []string{base + imageSuffix, base + manifestSuffix, base + ".elsewhere"} {
				if err := os.RemoveAll(f); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(base+imageSuffix, whole, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(base+manifestSuffix, manifest, 0o644); err != nil {
				t.Fatal(err)
			}
			if imgs, err := s.Images(); err != nil || len(imgs) != 1 {
				t.Fatalf("whole: %v %v", imgs, err)
			}
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			if imgs, err := s.Images(); err != nil || len(imgs) != 0 {
				t.Errorf("listed: %v %v", imgs, err)
			}
			if name, err := s.Rootfs(img.Digest); err == nil {
				t.Errorf("offered: %s", name)
			}
		})
	}
}

func TestVerifyDamaged(t *testing.T) {
	s := open(t, Options{})
	img := put(t, s, "a", "one")
	name, err := s.Rootfs(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-blockSize] ^= 1
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), img.Digest); err == nil {
		t.Error("a flipped bit was not seen")
	}
}

// TestOpenClears checks that Open removes what nobody writes any more, and
// only that.
func TestOpenClears(t *testing.T) {
	s := open(t, Options{})
	img := put(t, s, "a", "one")
	orphan := strings.Repeat("0", 64) + imageSuffix
	for _, f := range []string{"image-1.tmp", "file-2.tmp", "image-busy.tmp", orphan, "other.erofs"} {
		if err := os.WriteFile(s.path(f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	busy, err := os.Open(s.path("image-busy.tmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := unix.Flock(int(busy.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir, Options{}); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(s.path("*.tmp"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != "image-busy.tmp" {
		t.Errorf("left: %v %v", left, err)
	}
	if _, err := os.Lstat(s.path(orphan)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image without a manifest is still there: %v", err)
	}
	if _, err := os.Lstat(s.path("other.erofs")); err != nil {
		t.Errorf("a file that is not ours is gone: %v", err)
	}
	if _, err := s.Rootfs(img.Digest); err != nil {
		t.Error(err)
	}
}

// TestPulledDoesNotReplacePrepared gives a pulled image the very bytes of a
// prepared one, which must stay what it is.
func TestPulledDoesNotReplacePrepared(t *testing.T) {
	s := open(t, Options{})
	tr := func() *tree {
		x, err := overlay(t, Limits{}, []tar.Header{file("a")})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	want, err := s.commit(t.Context(), Image{Name: Base, Recipe: "base-1"}, tr())
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.commit(t.Context(), Image{Name: "evil"}, tr())
	if err != nil || got.Digest != want.Digest || got.Name != "evil" {
		t.Fatalf("%+v %v", got, err)
	}
	imgs, err := s.Images()
	if err != nil || len(imgs) != 1 || imgs[0].Name != Base || imgs[0].Recipe != "base-1" {
		t.Errorf("%+v %v", imgs, err)
	}
}

func TestExtraCA(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "text": "hello", "key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		f := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(f, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.TempDir(), Options{ExtraCA: f}); hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(t.TempDir(), Options{ExtraCA: "/no/such/file"}); hutch.KindOf(err) != hutch.Invalid {
		t.Error(err)
	}
}

func TestBuildAgentImage(t *testing.T) {
	dir := t.TempDir()
	agent := bytes.Repeat([]byte("agent!"), 1<<20)
	name, err := BuildAgentImage(agent, dir)
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fsys := readBack(t, raw)
		st, err := fs.Stat(fsys, AgentName)
		if err != nil || st.Mode().Perm() != 0o555 {
			t.Fatalf("%v %v", st, err)
		}
		if b, err := fs.ReadFile(fsys, AgentName); err != nil || !bytes.Equal(b, agent) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		if ents, err := fs.ReadDir(fsys, "."); err != nil || len(ents) != 1 {
			t.Fatalf("%v %v", ents, err)
		}
	}
	check()
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	again, err := BuildAgentImage(agent, dir)
	if err != nil || again != name {
		t.Fatalf("%s %v", again, err)
	}
	t.Logf("again: %v", time.Since(start))
	if after, err := os.Stat(name); err != nil || !os.SameFile(before, after) {
		t.Error("a whole image was written again")
	}
	// A damaged one is replaced, even if its size is right.
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw[blockSize*3] ^= 1
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := BuildAgentImage(agent, dir); err != nil {
		t.Fatal(err)
	}
	check()
	other, err := BuildAgentImage([]byte("another agent"), dir)
	if err != nil || other == name {
		t.Errorf("%s %v", other, err)
	}
	if ents, err := os.ReadDir(dir); err != nil || len(ents) != 2 {
		t.Errorf("%v %v", ents, err)
	}
	if _, err := BuildAgentImage(nil, dir); err == nil {
		t.Error("no agent was accepted")
	}
}
