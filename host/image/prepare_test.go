package image

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/hutch-sh/hutch"
)

func TestSteps(t *testing.T) {
	s := open(t, Options{})
	var done []int
	p := &preparation{s: s, rep: newReporter(func(p Progress) { done = append(done, p.Done) }, "x", 3)}
	runs := map[string]int{}
	step := func(name string, fail error) (string, error) {
		return p.step(t.Context(), name, name, func(_ context.Context, dir string) error {
			runs[name]++
			if ents, err := os.ReadDir(dir); err != nil || len(ents) != 0 {
				t.Errorf("step %s does not begin with an empty directory: %v %v", name, ents, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o600); err != nil {
				return err
			}
			return fail
		})
	}
	if _, err := step("a-1", nil); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, err := step("b-1", broken); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if m, _ := filepath.Glob(p.stepsDir("*")); len(m) != 1 {
		t.Errorf("a failed step left something: %v", m)
	}
	for range 2 { // as after an interruption: what is finished is not done again
		for _, name := range []string{"a-1", "b-1"} {
			if dir, err := step(name, nil); err != nil || dir != p.stepsDir(name) {
				t.Fatal(dir, err)
			}
		}
	}
	if runs["a-1"] != 1 || runs["b-1"] != 2 {
		t.Errorf("runs: %v", runs)
	}
	if !slices.IsSorted(done) {
		t.Errorf("progress went back: %v", done)
	}
	if err := p.forget("b-1"); err != nil {
		t.Fatal(err)
	}
	if m, _ := filepath.Glob(p.stepsDir("*")); len(m) != 1 || filepath.Base(m[0]) != "b-1" {
		t.Errorf("left: %v", m)
	}
}

// TestStepKilled kills a program in the middle of a step, and goes on from there.
func TestStepKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HUTCH_IMAGE_HELPER=step", "HUTCH_IMAGE_DIR="+dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("%q %v", line, err)
	}
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), Base, nil); hutch.KindOf(err) != hutch.Unavailable {
		t.Errorf("two processes may prepare at once: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it ended by itself")
	}
	unlock, err := s.lockBuild(t.Context())
	if err != nil {
		t.Fatalf("the lock of a dead process is still held: %v", err)
	}
	defer unlock()
	p := &preparation{s: s, rep: newReporter(nil, "x", 2)}
	if err := p.clear(); err != nil {
		t.Fatal(err)
	}
	first, err := p.step(t.Context(), "first-1", "first", func(context.Context, string) error {
		t.Error("a finished step is done again")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(first, "done")); err != nil {
		t.Error(err)
	}
	again := false
	second, err := p.step(t.Context(), "second-1", "second", func(context.Context, string) error { again = true; return nil })
	if err != nil || !again {
		t.Errorf("the interrupted step counts as done: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(second, "half")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a step is in its result: %v", err)
	}
}

func TestPlan(t *testing.T) {
	plan := func(o Options, name string) preparation {
		p := preparation{s: open(t, o)}
		if err := p.plan(name); err != nil {
			t.Fatal(err)
		}
		return p
	}
	a, again := plan(Options{}, CodeInterpreter), plan(Options{}, CodeInterpreter)
	if a.recipe != again.recipe {
		t.Error("one recipe, two names")
	}
	if base := plan(Options{}, Base); base.system != a.system || base.recipe == a.recipe {
		t.Error("code-interpreter is not built on base")
	}
	if m := plan(Options{Mirror: "http://mirror"}, CodeInterpreter); m.bootstrap == a.bootstrap || m.recipe == a.recipe {
		t.Error("another mirror, the same Debian")
	}
	if m := plan(Options{PyPI: "http://mirror/"}, CodeInterpreter); m.recipe != a.recipe {
		t.Error("another index gives the same pinned files, and so the same image")
	}
	if !strings.HasPrefix(a.recipe, CodeInterpreter+"-") || !strings.HasPrefix(a.libs, "libraries-") {
		t.Errorf("%q %q", a.recipe, a.libs)
	}
	s := open(t, Options{Suite: "trixie"})
	if _, err := s.Prepare(t.Context(), CodeInterpreter, nil); hutch.KindOf(err) != hutch.Unsupported {
		t.Error(err)
	}
	if _, err := s.Prepare(t.Context(), "../x", nil); hutch.KindOf(err) != hutch.NotFound {
		t.Error(err)
	}
}

// TestPrepareKnown returns an image made before, with what this program says of it.
func TestPrepareKnown(t *testing.T) {
	s := open(t, Options{})
	p := preparation{s: s}
	if err := p.plan(Base); err != nil {
		t.Fatal(err)
	}
	old, err := s.commit(t.Context(), Image{Name: Base, Recipe: p.recipe, Description: "as an older program told it"}, newTree())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		img, err := s.Prepare(t.Context(), Base, func(p Progress) { t.Errorf("something is done: %+v", p) })
		if err != nil || img.Digest != old.Digest || img.Description == old.Description || !img.Created.Equal(old.Created) {
			t.Errorf("%+v %v", img, err)
		}
		imgs, err := s.Images()
		if err != nil || len(imgs) != 1 || imgs[0].Description != img.Description {
			t.Errorf("%+v %v", imgs, err)
		}
	}
}

// registryOf serves files by path and counts what it was asked.
func registryOf(t *testing.T, files map[string][]byte) (base string, asked *atomic.Int32) {
	asked = &atomic.Int32{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		b, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(b)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

func TestFetch(t *testing.T) {
	content := []byte("some package")
	s256, s512 := sha256.Sum256(content), sha512.Sum512(content)
	var z bytes.Buffer
	zw := zip.NewWriter(&z)
	w, err := zw.Create("golang.org/toolchain@v0.0.1/VERSION")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("go1"))
	zw.Close()
	zipFile := filepath.Join(t.TempDir(), "z.zip")
	if err := os.WriteFile(zipFile, z.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	h1, err := dirhash.HashZip(zipFile, dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	base, asked := registryOf(t, map[string][]byte{"/a": content, "/z": z.Bytes()})
	at := func(path string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return base + path, nil }
	}
	s := open(t, Options{})
	d, err := s.downloader()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	good := []artifact{
		{"a.whl", "sha256:" + hex.EncodeToString(s256[:]), at("/a")},
		{"a.tgz", "sha512-" + base64.StdEncoding.EncodeToString(s512[:]), at("/a")},
		{"z.zip", h1, at("/z")},
	}
	var moved atomic.Int64
	if err := d.fetch(t.Context(), good, func(n int64) { moved.Add(n) }); err != nil {
		t.Fatal(err)
	}
	if want := int64(2*len(content) + z.Len()); moved.Load() != want {
		t.Errorf("%d bytes counted, %d moved", moved.Load(), want)
	}
	for _, a := range good {
		if _, err := os.Lstat(s.cached(a)); err != nil {
			t.Error(err)
		}
	}
	n := asked.Load()
	if err := d.fetch(t.Context(), good, nil); err != nil || asked.Load() != n {
		t.Errorf("what is there is fetched again: %v", err)
	}

	for _, a := range []artifact{
		{"wrong256", "sha256:" + strings.Repeat("0", 64), at("/a")},
		{"wrong512", "sha512-" + base64.StdEncoding.EncodeToString(make([]byte, 64)), at("/a")},
		{"wrongh1", "h1:" + base64.StdEncoding.EncodeToString(make([]byte, 32)), at("/z")},
		{"nozip", h1, at("/a")},
		{"nosum", "md5:00000000000000", at("/a")},
		{"missing", good[0].sum, at("/missing")},
	} {
		dst := s.cached(a)
		if err := d.download(t.Context(), a, dst, nil); err == nil {
			t.Errorf("%s was accepted", a.name)
		}
		if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is in the cache", a.name)
		}
	}
	if m, _ := filepath.Glob(s.path("build", "cache", "*.tmp")); len(m) != 0 {
		t.Errorf("left: %v", m)
	}
}

func TestWheelURL(t *testing.T) {
	const file = "Some_Pkg-1.0-py3-none-any.whl"
	for name, page := range map[string]string{
		"JSON": `{"meta":{"api-version":"1.0"},"files":[{"filename":"other.whl","url":"x"},{"filename":"` + file + `","url":"../../f/` + file + `#sha256=0"}]}`,
		"HTML": `<!DOCTYPE html><html><body><a href="x">other.whl</a><A rel="internal" HREF="../../f/` + file + `#sha256=0" data-requires-python="&gt;=3">` + file + `</A></body></html>`,
	} {
		base, _ := registryOf(t, map[string][]byte{"/simple/some-pkg/": []byte(page)})
		s := open(t, Options{PyPI: base + "/simple/"})
		d, err := s.downloader()
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.wheelURL(t.Context(), file)
		if err != nil || got != base+"/f/"+file {
			t.Errorf("%s: %q %v", name, got, err)
		}
		if _, err := d.wheelURL(t.Context(), "Some_Pkg-2.0-py3-none-any.whl"); err == nil {
			t.Errorf("%s: a file that is not listed was found", name)
		}
		d.close()
	}
}

// TestPins checks the pinned lists by themselves.
func TestPins(t *testing.T) {
	s := open(t, Options{})
	d, err := s.downloader()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	ws, err := d.wheels()
	if hutch.KindOf(err) == hutch.Unsupported {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, w := range ws {
		project, _, _ := strings.Cut(w.name, "-")
		if have[project] {
			t.Errorf("%s twice", project)
		}
		have[project] = true
		if b, err := hex.DecodeString(strings.TrimPrefix(w.sum, "sha256:")); err != nil || len(b) != 32 || !strings.HasSuffix(w.name, ".whl") {
			t.Errorf("%q %q", w.name, w.sum)
		}
	}
	for _, p := range []string{"pip", "ipython", "ipykernel", "numpy", "pandas", "matplotlib", "seaborn", "scikit_learn", "plotly", "requests"} {
		if !have[p] {
			t.Errorf("%s is missing", p)
		}
	}
}

func TestGoFile(t *testing.T) {
	for in, want := range map[string]string{
		"golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/bin/go":                "usr/local/go/bin/go",
		"golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/src/fmt/print.go":      "usr/local/go/src/fmt/print.go",
		"golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/src/fmt/print_test.go": "",
		"golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/src/x/testdata/y.go":   "",
		"golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64/test/bench.go":         "",
		"golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64":                       "",
		"x": "",
	} {
		if got := goFile(in); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}

// TestUnpackStaysBelow gives the unpacker a name that leads out.
func TestUnpackStaysBelow(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "in")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Symlink(parent, filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "a/../../x", "out/x", "/x"} {
		if err := unpack(root, name, strings.NewReader("x"), false, time.Unix(0, 0)); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if ents, err := os.ReadDir(parent); err != nil || len(ents) != 1 {
		t.Errorf("%v %v", ents, err)
	}
	if err := unpack(root, "a/b/prog", strings.NewReader("x"), true, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "a/b/prog")); err != nil || st.Mode() != 0o755 {
		t.Errorf("%v %v", st, err)
	}
}
