package file

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hutch-sh/hutch/api"
)

// code returns the code that err would be answered with, and its path.
func code(t *testing.T, err error) (string, string) {
	t.Helper()
	if err == nil {
		return "", ""
	}
	w := httptest.NewRecorder()
	api.WriteAgent(w, httptest.NewRequest("GET", "/", nil), err)
	var body api.AgentErrorBody
	if jerr := json.Unmarshal(w.Body.Bytes(), &body); jerr != nil {
		t.Fatal(jerr)
	}
	if w.Code >= 500 {
		t.Errorf("status %d for %v", w.Code, err)
	}
	return body.Code, body.Path
}

func put(t *testing.T, path, content string, mode fs.FileMode, overwrite bool) error {
	t.Helper()
	d, err := NewDraft(path, "")
	if err != nil {
		return err
	}
	defer d.Discard()
	if _, err := io.WriteString(d, content); err != nil {
		return err
	}
	return d.Commit(path, mode, overwrite)
}

func get(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func noTemps(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(filepath.Base(path), TempPrefix) {
			t.Errorf("left behind: %s", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestResolve(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, tt := range []struct{ in, want, code string }{
		{"/a/b", "/a/b", ""},
		{"a", "/home/w/a", ""},
		{"./a/../b", "/home/w/b", ""},
		{"//a//b/", "/a/b", ""},
		{"/../..", "/", ""},
		{".", "/home/w", ""},
		{"/ünï 🦔/x", "/ünï 🦔/x", ""},
		{"/\xff", "/\xff", ""},
		{"", "", api.CodeMissingParameter},
		{"/a\x00b", "", api.CodeInvalidPath},
		{"/" + long, "", api.CodeInvalidPath},
		{"/" + strings.Repeat("a/", 3000), "", api.CodeInvalidPath},
		{strings.Repeat("a/", 2040) + strings.Repeat("b", 16), "", api.CodeInvalidPath}, // too long once absolute
	} {
		got, err := Resolve(tt.in, "/home/w")
		if c, _ := code(t, err); got != tt.want || c != tt.code {
			t.Errorf("%.40q: %.40q, %q", tt.in, got, c)
		}
	}
}

func TestOpenRefusesWhatBlocks(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for link, to := range map[string]string{"tofifo": "fifo", "loop": "loop", "dangling": "nothing", "tozero": "/dev/zero"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/plain", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for path, want := range map[string]string{
			dir + "/fifo": api.CodeFileOperationFailed, dir + "/tofifo": api.CodeFileOperationFailed,
			dir + "/socket": api.CodeFileOperationFailed, dir: api.CodeFileOperationFailed,
			"/dev/zero": api.CodeFileOperationFailed, "/dev/tty": api.CodeFileOperationFailed, dir + "/tozero": api.CodeFileOperationFailed,
			dir + "/loop": api.CodeInvalidPath, dir + "/dangling": api.CodeFileNotFound, dir + "/none": api.CodeFileNotFound,
			dir + "/plain/below": api.CodeFileNotFound,
		} {
			f, _, err := Open(path)
			if c, p := code(t, err); c != want || err != nil && p != path {
				t.Errorf("%s: %q %q", path, c, p)
			}
			if err == nil {
				f.Close()
			}
			if err := put(t, path, "x", DefaultMode, true); strings.HasPrefix(want, api.CodeFileOperationFailed) && err == nil {
				t.Errorf("wrote %s", path)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("blocked")
	}
	noTemps(t, dir)
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/deep/er/ünï 🦔.txt"
	if err := put(t, path, "one", DefaultMode, true); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o644 || get(t, path) != "one" {
		t.Errorf("%v %v", fi, err)
	}
	// A mode that was asked for is set; without one the file keeps its own.
	if err := put(t, path, "two", 0o750, true); err != nil {
		t.Fatal(err)
	}
	if err := put(t, path, "three", DefaultMode, true); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o750 || get(t, path) != "three" {
		t.Errorf("%v %v", fi, err)
	}
	if err := put(t, path, "setuid", 0o4755, true); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode()&fs.ModeSetuid == 0 {
		t.Errorf("%v %v", fi, err)
	}
	err = put(t, path, "four", DefaultMode, false)
	if c, _ := code(t, err); c != api.CodeFileAlreadyExists || get(t, path) != "setuid" {
		t.Errorf("%v", err)
	}
	if err := put(t, dir+"/new", "five", 0o600, false); err != nil || get(t, dir+"/new") != "five" {
		t.Errorf("%v", err)
	}
	if c, _ := code(t, put(t, dir, "x", DefaultMode, true)); c != api.CodeFileOperationFailed {
		t.Errorf("directory: %q", c)
	}
	if c, _ := code(t, put(t, dir+"/new/below", "x", DefaultMode, true)); c != api.CodeFileOperationFailed {
		t.Errorf("below a file: %q", c)
	}
	noTemps(t, dir)
}

func TestWriteThroughLinks(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir+"/real", 0o755))
	must(os.WriteFile(dir+"/real/file", []byte("old"), 0o640))
	must(os.Symlink("real/file", dir+"/link"))
	must(os.Symlink("link", dir+"/linklink"))
	must(os.Symlink("real", dir+"/dirlink"))
	must(os.Symlink("real/new", dir+"/dangling"))
	must(os.Link(dir+"/real/file", dir+"/hard"))

	must(put(t, dir+"/linklink", "new", DefaultMode, true))
	if get(t, dir+"/real/file") != "new" || get(t, dir+"/hard") != "new" {
		t.Error("another name of the file has the old content")
	}
	if fi, err := os.Lstat(dir + "/linklink"); err != nil || fi.Mode()&fs.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	must(put(t, dir+"/dangling", "born", DefaultMode, true))
	must(put(t, dir+"/dirlink/other", "through", DefaultMode, true))
	if get(t, dir+"/real/new") != "born" || get(t, dir+"/real/other") != "through" {
		t.Error("links in the path")
	}
	noTemps(t, dir)
}

// TestCommitAcrossFileSystems spools where the path does not yet tell.
func TestCommitAcrossFileSystems(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip("no second file system at /dev/shm")
	}
	far, err := os.MkdirTemp("/dev/shm", "hutch-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(far)
	dir := t.TempDir()
	d, err := NewDraft("", far)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(d, "content"); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(dir+"/file", 0o604, true); err != nil {
		t.Fatal(err)
	}
	d.Discard()
	if fi, err := os.Stat(dir + "/file"); err != nil || fi.Mode() != 0o604 || get(t, dir+"/file") != "content" {
		t.Errorf("%v, %v", fi, err)
	}
	noTemps(t, far)
	noTemps(t, dir)
}

// TestFullDisk writes more than fits: the old file must stay as it was.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("cannot mount a small file system: ", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := put(t, dir+"/file", "old", DefaultMode, true); err != nil {
		t.Fatal(err)
	}
	err := put(t, dir+"/file", strings.Repeat("x", 1<<20), DefaultMode, true)
	if c, _ := code(t, err); c != api.CodeFileOperationFailed || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v", err)
	}
	if get(t, dir+"/file") != "old" {
		t.Error("the old file is gone")
	}
	noTemps(t, dir)
}

func TestConcurrentWritersAndReaders(t *testing.T) {
	path := t.TempDir() + "/file"
	if err := put(t, path, strings.Repeat("0", 10000), DefaultMode, true); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				if err := put(t, path, strings.Repeat(fmt.Sprint(i), 10000), DefaultMode, true); err != nil {
					t.Error(err)
				}
				b, err := os.ReadFile(path)
				if err != nil || len(b) != 10000 || strings.Trim(string(b), string(b[:1])) != "" {
					t.Errorf("a mixture: %d bytes, %v", len(b), err)
				}
			}
		})
	}
	wg.Wait()
	noTemps(t, filepath.Dir(path))
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"b.txt": 0o640, "ünï 🦔": 0o600, ".hidden": 0o644, TempPrefix + "1": 0o600, "bad\xff": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("12345"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Mkdir(dir+"/a", 0o1777), os.Chmod(dir+"/a", 0o777|fs.ModeSticky), os.Symlink("a", dir+"/link"), os.Symlink("none", dir+"/dangling"),
		os.Chtimes(dir+"/b.txt", time.Time{}, time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]api.FileInfo{}
	var order []string
	for _, f := range list {
		got[f.Name] = f
		order = append(order, f.Name)
	}
	if want := []string{".hidden", "a", "b.txt", "bad\uFFFD", "dangling", "link", "ünï 🦔"}; strings.Join(order, "|") != strings.Join(want, "|") {
		t.Errorf("%q", order)
	}
	if f := got["b.txt"]; f.Size != 5 || f.Permissions != "-rw-r-----" || f.Mode != "0640" || f.IsDir || f.IsDirectory ||
		f.Modified.String() != "2026-01-02T03:04:05.678Z" || f.Path != dir+"/b.txt" || f.ModifiedTime != f.Modified {
		t.Errorf("%+v", f)
	}
	if f := got["a"]; !f.IsDir || !f.IsDirectory || f.Permissions != "drwxrwxrwt" || f.Mode != "1777" {
		t.Errorf("%+v", f)
	}
	if f := got["link"]; !f.IsDir || !f.IsSymlink || f.Target != "a" || f.Permissions[0] != 'l' {
		t.Errorf("%+v", f)
	}
	if f := got["dangling"]; f.IsDir || !f.IsSymlink {
		t.Errorf("%+v", f)
	}
	if empty, err := List(t.TempDir()); err != nil || empty == nil || len(empty) != 0 {
		t.Errorf("%v %v", empty, err)
	}
	for path, want := range map[string]string{dir + "/none": api.CodeFileNotFound, dir + "/b.txt": api.CodeFileOperationFailed} {
		_, err := List(path)
		if c, _ := code(t, err); c != want {
			t.Errorf("%s: %q", path, c)
		}
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	guard := dir + "/guard"
	for _, err := range []error{
		os.MkdirAll(dir+"/tree/a/b", 0o755), os.WriteFile(dir+"/tree/a/b/f", nil, 0o400), os.Symlink("/", dir+"/tree/root"),
		os.MkdirAll(guard+"/bin", 0o755), os.Symlink(guard, dir+"/toguard"), os.Symlink("none", dir+"/dangling"), os.Mkdir(dir+"/guarded", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ path, want string }{
		{"/", api.CodePathNotAllowed}, {guard, api.CodePathNotAllowed}, {guard + "/bin", api.CodePathNotAllowed},
		{dir + "/toguard/bin", api.CodePathNotAllowed}, {dir + "/none", api.CodeFileNotFound}, {dir + "/none/below", api.CodeFileNotFound},
		{dir + "/tree", ""}, {dir + "/dangling", ""}, {dir + "/toguard", ""}, {dir + "/guarded", ""},
	} {
		err := Remove(tt.path, guard)
		if c, _ := code(t, err); c != tt.want {
			t.Errorf("%s: %q (%v)", tt.path, c, err)
		}
		if _, serr := os.Lstat(tt.path); tt.want == "" && !errors.Is(serr, fs.ErrNotExist) {
			t.Errorf("%s is still there", tt.path)
		}
	}
	if _, err := os.Stat(guard + "/bin"); err != nil {
		t.Error("the guard is gone")
	}
}

func TestMkdir(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		mode fs.FileMode
		want string
	}{
		{dir + "/a/b/c", DefaultMode, ""}, {dir + "/a/b/c", DefaultMode, ""}, {dir + "/m", 0o700, ""},
		{dir + "/file", DefaultMode, api.CodeFileAlreadyExists}, {dir + "/file/x", DefaultMode, api.CodeFileOperationFailed},
	} {
		if c, _ := code(t, Mkdir(tt.path, tt.mode)); c != tt.want {
			t.Errorf("%s: %q", tt.path, c)
		}
	}
	if fi, err := os.Stat(dir + "/m"); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", fi, err)
	}
}

func TestParseMode(t *testing.T) {
	for in, want := range map[string]fs.FileMode{"": DefaultMode, "0644": 0o644, "755": 0o755, "0o600": 0o600, "04755": 0o4755, "0": 0} {
		if got, err := ParseMode(in); err != nil || got != want {
			t.Errorf("%q: %o, %v", in, got, err)
		}
	}
	for _, in := range []string{"8", "0648", "rw-r--r--", "-1", "10000", "0x1ff", " 644", "0o", "77777777777777"} {
		if got, err := ParseMode(in); err == nil {
			t.Errorf("%q: %o", in, got)
		}
	}
}

func readMessage(t *testing.T, body string) (*Message, string, error) {
	t.Helper()
	m, err := ReadMessage(strings.NewReader(body), func(path string) (*Draft, error) { return NewDraft(path, t.TempDir()) })
	if err != nil {
		return nil, "", err
	}
	defer m.Discard()
	if m.Content == nil {
		return m, "", nil
	}
	r, err := m.Content.Reader()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return m, string(b), nil
}

func TestReadMessage(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ body, content string }{
		{`{"path":"` + dir + `/f","content":"hi","mode":"0600"}`, "hi"},
		{` { "content" : "a\"\\\/\b\f\n\r\tä\u00e4\ud83e\udd94" , "path" : "` + dir + `/f" } `, "a\"\\/\b\f\n\r\tää🦔"},
		{`{"path":"` + dir + `/f","content":{"type":"Buffer","data":[0,255, 10 ,104]}}`, "\x00\xff\nh"},
		{`{"path":"` + dir + `/f","content":{"data":[],"type":"Buffer"}}`, ""},
		{`{"path":"` + dir + `/f","content":"","overwrite":false,"encoding":"base64","x":[{"y":"]}"},1.5e3,null,true]}`, ""},
		{`{"path":"` + dir + `/f","content":"\ud800x\udc00\ud83e\ud83e\udd94"}`, "\uFFFDx\uFFFD\uFFFD🦔"},
		{"{\"path\":\"" + dir + "/f\",\"content\":\"\xff\"}", "\xff"},
	} {
		m, content, err := readMessage(t, tt.body)
		if err != nil || content != tt.content || m.Path != dir+"/f" {
			t.Errorf("%s: %q, %+v, %v", tt.body, content, m, err)
		}
	}
	if m, _, err := readMessage(t, `{"path":"/f","content":null}`); err != nil || m.Content != nil {
		t.Errorf("null: %+v, %v", m, err)
	}
	if m, _, err := readMessage(t, `{}`); err != nil || m.Content != nil || !m.Overwrite {
		t.Errorf("empty: %+v, %v", m, err)
	}
	for _, body := range []string{
		``, `{`, `[]`, `null`, `"x"`, `{"content":"x"`, `{"content":"x"}}`, `{"content":"x"} 1`, `{"content":1}`, `{"content":[1]}`,
		`{"content":true}`, `{"content":{"type":"Buffer","data":[256]}}`, `{"content":{"type":"Buffer","data":[-1]}}`,
		`{"content":{"type":"Buffer","data":[1.5]}}`, `{"content":{"type":"Buffer","data":[01]}}`, `{"content":{"type":"Buffer"}}`,
		`{"content":{"data":[1]}}`, `{"content":{"type":"Other","data":[1]}}`, `{"content":"\x"}`, `{"content":"\u12g4"}`,
		"{\"content\":\"a\nb\"}", `{"content":"a","content":"b"}`, `{"path":1,"content":"a"}`, `{"path":"a" "content":"a"}`,
		`{1:2}`, `{"path":,"content":"a"}`, `{"overwrite":"yes"}`, `{"mode":"` + strings.Repeat("x", maxField) + `"}`, `{"content":"\`, `{"content":"\ud83e`, `{"a":]}`,
		`{"content":{"type":"Buffer","data":[1,]}}`, `{"content":{"type":"Buffer","data":[`,
	} {
		_, _, err := readMessage(t, body)
		if c, _ := code(t, err); c != api.CodeInvalidJSON {
			t.Errorf("%.60s: %q (%v)", body, c, err)
		}
	}
}

func TestReadMessageStreams(t *testing.T) {
	want := strings.Repeat("line with \"quotes\" and ünïcode 🦔\n", 200000)
	quoted, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := readMessage(t, `{"path":"`+t.TempDir()+`/f","content":`+string(quoted)+`}`)
	if err != nil || got != want {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestDecodeBase64(t *testing.T) {
	dir := t.TempDir()
	raw := make([]byte, 300000)
	for i := range raw {
		raw[i] = byte(i * 7)
	}
	for _, tt := range []struct {
		content string
		ok      bool
	}{
		{base64.StdEncoding.EncodeToString(raw), true},
		{"aGk=\\n", true}, {"", true}, {"aGk", false}, {"a$$$", false}, {"aGk=aGk=x", false},
	} {
		m, err := ReadMessage(strings.NewReader(`{"content":"`+tt.content+`","encoding":"base64"}`),
			func(path string) (*Draft, error) { return NewDraft(path, dir) })
		if err != nil {
			t.Fatal(err)
		}
		d, err := m.Decode(dir + "/out")
		if (err == nil) != tt.ok {
			t.Errorf("%.20q: %v", tt.content, err)
		}
		if err != nil {
			if c, _ := code(t, err); c != api.CodeInvalidRequest {
				t.Errorf("%v", err)
			}
		} else {
			if err := d.Commit(dir+"/out", DefaultMode, true); err != nil {
				t.Error(err)
			}
			if len(tt.content) > 100 && get(t, dir+"/out") != string(raw) {
				t.Error("other bytes")
			}
			d.Discard()
		}
		m.Discard()
	}
	noTemps(t, dir)
}

func TestWriteString(t *testing.T) {
	mixed := strings.Repeat("aé漢🦔\xff\x00\"\\<>&\n\u2028", 20000)
	for _, in := range []string{"", "plain", "\xff\xfe", "é", "\xf0\x9f", "\xe6\xbc", mixed, strings.Repeat("x", contentChunk-1) + "🦔", strings.Repeat("\x80", contentChunk+5)} {
		for _, r := range []io.Reader{strings.NewReader(in), oneByte{strings.NewReader(in)}} {
			if len(in) > 100000 && r != (io.Reader)(nil) {
				if _, slow := r.(oneByte); slow {
					continue
				}
			}
			var w bytes.Buffer
			n, err := WriteString(&w, r)
			if err != nil || n != int64(len(in)) {
				t.Fatalf("%d, %v", n, err)
			}
			var got string
			if err := json.Unmarshal([]byte(`"`+w.String()+`"`), &got); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			var want string
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			if got != want {
				t.Errorf("%.20q: %.40q, want %.40q", in, got, want)
			}
		}
	}
}

type oneByte struct{ r io.Reader }

func (o oneByte) Read(b []byte) (int, error) { return o.r.Read(b[:min(1, len(b))]) }

func FuzzResolve(f *testing.F) {
	for _, s := range []string{"/a", "a/../..", "//", "/\x00", strings.Repeat("a/", 5000), "/" + strings.Repeat("x", 300), "..", "/.hutch/../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Resolve(s, "/workspace")
		if err != nil {
			return
		}
		if !filepath.IsAbs(got) || filepath.Clean(got) != got || strings.Contains(got, "\x00") || len(got) > maxPath {
			t.Errorf("%q: %q", s, got)
		}
	})
}

func FuzzParseMode(f *testing.F) {
	for _, s := range []string{"", "0644", "8", "0o", "77777"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := ParseMode(s); err == nil && m != DefaultMode && m > 0o7777 {
			t.Errorf("%q: %o", s, m)
		}
	})
}

// FuzzReadMessage compares the streaming reader with the standard one.
func FuzzReadMessage(f *testing.F) {
	for _, s := range []string{
		`{"path":"/f","content":"hi \u00e4\n","mode":"0600","encoding":"","overwrite":true}`,
		`{"content":{"type":"Buffer","data":[1,2,255]}}`, `{"content":"\ud83e\udd94","x":{"a":[1,{"b":"}"}]}}`, `{"content":null}`, `{}`, `[`, `{"content":"`,
	} {
		f.Add(s)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, body string) {
		m, err := ReadMessage(strings.NewReader(body), func(string) (*Draft, error) { return NewDraft("", dir) })
		if err != nil {
			// What is no JSON must be refused; what is refused need not be none.
			return
		}
		defer m.Discard()
		if !json.Valid([]byte(body)) {
			// The fields beside content are checked by the standard reader, unknown
			// ones only for where they end.
			return
		}
		if m.Content == nil || !utf8.ValidString(body) {
			return
		}
		var want struct{ Content any }
		if err := json.Unmarshal([]byte(body), &want); err != nil {
			return
		}
		s, ok := want.Content.(string)
		if !ok {
			return
		}
		r, err := m.Content.Reader()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(body, "ontent") == 1 && string(b) != s {
			t.Errorf("%q: %q, want %q", body, b, s)
		}
	})
}

func FuzzWriteString(f *testing.F) {
	f.Add([]byte("aé\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var w bytes.Buffer
		if _, err := WriteString(&w, oneByte{bytes.NewReader(b)}); err != nil {
			t.Fatal(err)
		}
		if !json.Valid([]byte(`"` + w.String() + `"`)) {
			t.Errorf("%q: %q", b, w.String())
		}
	})
}
