package guest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hutch-sh/hutch/api"
)

// form makes an upload; fields in the order given, "file" holds the content.
func form(t *testing.T, content string, fields ...string) (string, []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		var p io.Writer
		var err error
		if name == "file" {
			p, err = w.CreateFormFile("file", value)
			value = content
		} else {
			p, err = w.CreateFormField(name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(p, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

func (f *fixture) upload(contentType string, body []byte) *reply {
	f.Helper()
	return f.send(http.MethodPost, "/files/upload", bytes.NewReader(body), http.Header{"Authorization": {"Bearer " + f.token}, "Content-Type": {contentType}})
}

func (f *fixture) download(path string, h http.Header) *reply {
	f.Helper()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Authorization", "Bearer "+f.token)
	return f.send(http.MethodGet, "/files/download"+q(path), nil, h)
}

func TestWriteAndRead(t *testing.T) {
	f := ready(t)
	dir := t.TempDir()
	for i, content := range []string{"", "plain", "ünï 🦔\n\"quoted\" <&> \u2028", strings.Repeat("long line ü\n", 300000)} {
		path := fmt.Sprintf("%s/new/dir %d/ünï 🦔+&.txt", dir, i)
		var out api.FileResponse
		f.post("/files/write", m{"path": path, "content": content, "mode": "0640"}).want(200).into(&out)
		if !out.Success || out.Path != path || out.Size != int64(len(content)) {
			t.Errorf("%+v", out)
		}
		var back api.FileContent
		f.get("/files/read" + q(path)).want(200).into(&back)
		if back.Content != content || back.Size != int64(len(content)) || back.Path != path {
			t.Errorf("read back %d bytes of %d", len(back.Content), len(content))
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode() != 0o640 {
			t.Errorf("%v %v", fi, err)
		}
		if got := f.download(path, nil); got.status != 200 || string(got.body) != content || got.header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("download: %d, %d bytes, %v", got.status, len(got.body), got.header)
		}
	}
	// The path of a query, as three clients write it.
	path := dir + "/a b+c%d.txt"
	f.post("/files/write", m{"path": path, "content": "x"}).want(200)
	for _, raw := range []string{
		"/files/read?path=" + dir + "/a+b%2Bc%25d.txt", "/files/read?path=" + dir + "/a%20b%2bc%d.txt", "/files/read?x=%&path=" + strings.ReplaceAll(dir, "/", "%2F") + "%2Fa%20b%2Bc%25d.txt",
	} {
		f.get(raw).want(200)
	}
	// Relative paths start at the working directory.
	f.post("/files/write", m{"path": "relative.txt", "content": "x"}).want(200)
	if _, err := os.Stat(f.workspace + "/relative.txt"); err != nil {
		t.Error(err)
	}
}

func TestWriteForms(t *testing.T) {
	f := ready(t)
	path := t.TempDir() + "/f"
	raw := []byte{0, 1, 255, 254, '\n', 'a'}
	read := func() []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var out api.FileResponse
	f.post("/files/write", m{"path": path, "content": base64.StdEncoding.EncodeToString(raw), "encoding": "base64"}).want(200).into(&out)
	if !bytes.Equal(read(), raw) || out.Size != int64(len(raw)) {
		t.Errorf("base64: %q", read())
	}
	f.post("/files/write", `{"path":"`+path+`","content":{"type":"Buffer","data":[104,105,255]},"mode":"0644"}`).want(200)
	if string(read()) != "hi\xff" {
		t.Errorf("buffer: %q", read())
	}
	f.post("/files/write", `{"content":"content first","path":"`+path+`"}`).want(200)
	if string(read()) != "content first" {
		t.Errorf("content first: %q", read())
	}
	// Binary files read as text are still an answer.
	f.post("/files/write", `{"path":"`+path+`","content":{"type":"Buffer","data":[137,80,78,71,13,10,26,10,0]}}`).want(200)
	var back api.FileContent
	f.get("/files/read" + q(path)).want(200).into(&back)
	if back.Content != "\uFFFDPNG\r\n\x1a\n\x00" || back.Size != 9 {
		t.Errorf("%q", back.Content)
	}
	f.post("/files/write", m{"path": path, "content": "x", "overwrite": false}).fails(409, api.CodeFileAlreadyExists)
	f.post("/files/write", m{"path": path + "2", "content": "x", "overwrite": false}).want(200)
	for _, tt := range []struct{ body, code string }{
		{``, api.CodeInvalidJSON}, {`{"path":"/x"`, api.CodeInvalidJSON}, {`{"path":"/x","content":5}`, api.CodeInvalidJSON},
		{`{"path":"/x"}`, api.CodeMissingParameter}, {`{"content":"x"}`, api.CodeMissingParameter}, {`{"path":"","content":"x"}`, api.CodeMissingParameter},
		{`{"path":"/x\u0000","content":"x"}`, api.CodeInvalidPath}, {`{"path":"/x","content":"x","mode":"rwx"}`, api.CodeInvalidRequest},
		{`{"path":"` + path + `","content":"###","encoding":"base64"}`, api.CodeInvalidRequest}, {`{"path":"/x","content":"x","encoding":"rot13"}`, api.CodeInvalidRequest},
		{`{"path":"/` + strings.Repeat("x", 300) + `","content":"x"}`, api.CodeInvalidPath}, {`{"path":"` + filepath.Dir(path) + `","content":"x"}`, api.CodeFileOperationFailed},
		{`{"path":"` + path + `/below","content":"x"}`, api.CodeFileOperationFailed}, {`{"path":"/dev/null","content":"x"}`, api.CodeFileOperationFailed},
		{`{"path":"/proc/hutch","content":"x"}`, api.CodeFileNotFound},
	} {
		got := f.post("/files/write", tt.body)
		if got.status >= 500 {
			t.Errorf("%s: %d", tt.body, got.status)
		}
		got.fails(got.status, tt.code)
	}
	for _, d := range []string{filepath.Dir(path), f.workspace, "/"} {
		if left, _ := filepath.Glob(d + "/.hutch-tmp-*"); len(left) > 0 {
			t.Errorf("left behind %v", left)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	f := ready(t)
	dir := t.TempDir()
	if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, code string
		status     int
	}{
		{dir + "/none", api.CodeFileNotFound, 404}, {dir, api.CodeFileOperationFailed, 400}, {dir + "/fifo", api.CodeFileOperationFailed, 400},
		{"/dev/zero", api.CodeFileOperationFailed, 400}, {"/dev/random", api.CodeFileOperationFailed, 400}, {"/x\x00", api.CodeInvalidPath, 400},
		{"", api.CodeMissingParameter, 400}, {"/" + strings.Repeat("x", 256), api.CodeInvalidPath, 400}, {"/" + strings.Repeat("x/", 4000), api.CodeInvalidPath, 400},
	} {
		for _, e := range []string{"read", "download"} {
			got := f.get("/files/"+e+q(tt.path)).fails(tt.status, tt.code)
			if tt.code == api.CodeFileNotFound {
				var body struct {
					Path    string
					Details struct{ Path string }
				}
				got.into(&body)
				if body.Path != tt.path || body.Details.Path != tt.path {
					t.Errorf("%s", got.body)
				}
			}
		}
	}
	// A file of /proc has no size but a content.
	var c api.FileContent
	f.get("/files/read" + q("/proc/version")).want(200).into(&c)
	if c.Size == 0 || c.Content == "" {
		t.Errorf("%+v", c)
	}
	if got := f.download("/proc/version", nil); string(got.body) != c.Content {
		t.Errorf("%q", got.body)
	}
}

func TestDownloadRanges(t *testing.T) {
	f := ready(t)
	path := t.TempDir() + "/data.html"
	if err := os.WriteFile(path, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	for r, want := range map[string]struct {
		status int
		body   string
	}{
		"": {200, "0123456789"}, "bytes=2-4": {206, "234"}, "bytes=7-": {206, "789"}, "bytes=-2": {206, "89"}, "bytes=20-": {416, ""}, "junk": {416, ""},
	} {
		h := http.Header{}
		if r != "" {
			h.Set("Range", r)
		}
		got := f.download(path, h)
		if got.status != want.status || want.body != "" && string(got.body) != want.body {
			t.Errorf("%q: %d %q", r, got.status, got.body)
		}
		if got.status < 400 && got.header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%q: %s", r, got.header.Get("Content-Type"))
		}
	}
}

func TestUpload(t *testing.T) {
	f := ready(t)
	dir := t.TempDir()
	content := strings.Repeat("content \x00\xff\r\n--boundary\r\n", 20000)
	for i, order := range [][]string{{"path=%s", "file=a.bin"}, {"file=a.bin", "path=%s"}, {"mode=0600", "file=ünï.bin", "path=%s", "x=y"}} {
		path := fmt.Sprintf("%s/%d/ünï 🦔.bin", dir, i)
		fields := make([]string, len(order))
		for j, o := range order {
			fields[j] = strings.ReplaceAll(o, "%s", path)
		}
		ct, body := form(t, content, fields...)
		var out api.FileResponse
		f.upload(ct, body).want(200).into(&out)
		b, err := os.ReadFile(path)
		if err != nil || string(b) != content || out.Size != int64(len(content)) || out.Path != path {
			t.Errorf("%v: %d bytes, %v, %+v", order, len(b), err, out)
		}
	}
	if fi, err := os.Stat(dir + "/2/ünï 🦔.bin"); err != nil || fi.Mode() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
	// Relative, and over an existing file.
	ct, body := form(t, "new", "path=up.txt", "file=x")
	f.upload(ct, body).want(200)
	f.upload(ct, body).want(200)
	if b, err := os.ReadFile(f.workspace + "/up.txt"); err != nil || string(b) != "new" {
		t.Errorf("%q %v", b, err)
	}
	for _, tt := range []struct {
		fields []string
		status int
		code   string
	}{
		{[]string{"file=x"}, 400, api.CodeMissingParameter}, {[]string{"path=/x"}, 400, api.CodeMissingParameter},
		{[]string{"path=" + dir, "file=x"}, 400, api.CodeFileOperationFailed}, {[]string{"path=/\x00", "file=x"}, 400, api.CodeInvalidPath},
		{[]string{"path=" + dir + "/y", "file=x", "file=y"}, 400, api.CodeInvalidRequest}, {[]string{"path=" + dir + "/y", "mode=9", "file=x"}, 400, api.CodeInvalidRequest},
		{[]string{"path=" + strings.Repeat("x", maxFormField+1), "file=x"}, 413, api.CodeRequestTooLarge},
		{[]string{"path=" + f.workspace + "/up.txt", "overwrite=false", "file=x"}, 409, api.CodeFileAlreadyExists},
	} {
		ct, body := form(t, "x", tt.fields...)
		f.upload(ct, body).fails(tt.status, tt.code)
	}
	f.upload("application/json", []byte("{}")).fails(400, api.CodeInvalidRequest)
	f.upload("", nil).fails(400, api.CodeInvalidRequest)
	f.upload("multipart/form-data", nil).fails(400, api.CodeInvalidRequest)
	f.upload("multipart/form-data; boundary=x", []byte("no form at all")).fails(400, api.CodeInvalidRequest)
	f.upload("multipart/form-data; boundary=x", nil).fails(400, api.CodeInvalidRequest)
	ct, body = form(t, "half", "path="+f.workspace+"/up.txt", "file=x")
	for _, cut := range []int{3, 4, 10, 40, 60} { // in the last boundary, in the file, before it
		f.upload(ct, body[:len(body)-cut]).fails(400, api.CodeInvalidRequest)
	}
	if b, err := os.ReadFile(f.workspace + "/up.txt"); err != nil || string(b) != "new" {
		t.Errorf("half an upload replaced the file: %q %v", b, err)
	}
	for _, d := range []string{dir, f.workspace, "/"} {
		if left, _ := filepath.Glob(d + "/.hutch-tmp-*"); len(left) > 0 {
			t.Errorf("left behind %v", left)
		}
	}
}

// TestUploadAborted breaks the connection in the middle.
func TestUploadAborted(t *testing.T) {
	f := ready(t)
	path := f.workspace + "/f"
	f.post("/files/write", m{"path": path, "content": "old"}).want(200)
	ct, body := form(t, strings.Repeat("x", 1<<20), "path="+path, "file=x")
	c, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "POST /files/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", f.token, ct, len(body)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(body[:len(body)/2]); err != nil {
		t.Fatal(err)
	}
	f.eventually("the upload has begun", func() bool { left, _ := filepath.Glob(f.workspace + "/.hutch-tmp-*"); return len(left) == 1 })
	c.Close()
	f.eventually("the draft is gone", func() bool { left, _ := filepath.Glob(f.workspace + "/.hutch-tmp-*"); return len(left) == 0 })
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("%q %v", b, err)
	}
}

// endless is n bytes that cost nothing.
type endless struct{ left int64 }

func (e *endless) Read(b []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), e.left))
	clear(b[:n])
	e.left -= int64(n)
	return n, nil
}

// TestLargeFilesDoNotGrowTheAgent moves files that are larger than what the
// agent may hold.
func TestLargeFilesDoNotGrowTheAgent(t *testing.T) {
	f := ready(t)
	const size = 192 << 20
	path := f.workspace + "/large"
	var peak uint64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			var ms runtime.MemStats
			runtime.ReadMemStats(&ms)
			peak = max(peak, ms.HeapInuse)
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	h := http.Header{"Authorization": {"Bearer " + f.token}, "Content-Type": {"multipart/form-data; boundary=b"}}
	head := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
	tail := "\r\n--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n" + path + "\r\n--b--\r\n"
	f.send(http.MethodPost, "/files/upload", io.MultiReader(strings.NewReader(head), &endless{size}, strings.NewReader(tail)), h).want(200)
	h = http.Header{"Authorization": {"Bearer " + f.token}}
	f.send(http.MethodPost, "/files/write", io.MultiReader(strings.NewReader(`{"path":"`+path+`2","content":"`),
		replacing{&endless{size}}, strings.NewReader(`"}`)), h).want(200)
	for _, p := range []string{"/files/read" + q(path+"2"), "/files/download" + q(path)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+p, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+f.token)
		res, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || n < size {
			t.Errorf("%s: %d bytes, %v", p, n, err)
		}
	}
	close(stop)
	wg.Wait()
	if peak > 48<<20 {
		t.Errorf("the heap grew to %d MiB", peak>>20)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != size {
		t.Errorf("%v %v", fi, err)
	}
}

// replacing makes every byte a z.
type replacing struct{ io.Reader }

func (r replacing) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	for i := range b[:n] {
		b[i] = 'z'
	}
	return n, err
}

func TestWriteLimit(t *testing.T) {
	f := ready(t)
	h := http.Header{"Authorization": {"Bearer " + f.token}}
	body := io.MultiReader(strings.NewReader(`{"path":"`+f.workspace+`/f","content":"`), replacing{&endless{maxWrite}}, strings.NewReader(`"}`))
	f.send(http.MethodPost, "/files/write", body, h).fails(413, api.CodeRequestTooLarge)
	if left, _ := os.ReadDir(f.workspace); len(left) != 0 {
		t.Errorf("left behind %v", left)
	}
}

// TestFullDisk fills a small file system: an answer, never a 5xx, and the old
// file as it was.
func TestFullDisk(t *testing.T) {
	f := ready(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("cannot mount a small file system: ", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	path := dir + "/f"
	f.post("/files/write", m{"path": path, "content": "old"}).want(200)
	big := strings.Repeat("x", 4<<20)
	ct, up := form(t, big, "path="+path, "file=x")
	for _, got := range []*reply{f.post("/files/write", m{"path": path, "content": big}), f.upload(ct, up)} {
		got.fails(400, api.CodeFileOperationFailed)
		if !strings.Contains(string(got.body), "no space left") {
			t.Errorf("%s", got.body)
		}
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("%q %v", b, err)
	}
}

func TestListExistsMkdirRemove(t *testing.T) {
	f := ready(t)
	dir := t.TempDir()
	f.post("/files/mkdir", m{"path": dir + "/a/b/ü"}).want(200)
	f.post("/files/mkdir", m{"path": dir + "/a/b/ü"}).want(200)
	f.post("/files/write", m{"path": dir + "/a/f.txt", "content": "12345"}).want(200)
	f.post("/files/mkdir", m{"path": dir + "/a/f.txt"}).fails(409, api.CodeFileAlreadyExists)
	f.post("/files/mkdir", m{}).fails(400, api.CodeMissingParameter)
	f.post("/files/mkdir", `{"path":1}`).fails(400, api.CodeInvalidJSON)

	var raw struct {
		Files []map[string]any
		Path  string
		Count int
	}
	f.get("/files/list" + q(dir+"/a/")).want(200).into(&raw)
	if raw.Count != 2 || raw.Path != dir+"/a" || raw.Files[0]["name"] != "b" || raw.Files[1]["name"] != "f.txt" {
		t.Fatalf("%+v", raw)
	}
	file := raw.Files[1]
	if file["is_dir"] != false || file["is_directory"] != false || file["size"] != 5.0 || file["permissions"] != "-rw-r--r--" || file["mode"] != "0644" || file["path"] != dir+"/a/f.txt" {
		t.Errorf("%v", file)
	}
	for _, k := range []string{"modified", "modified_time"} {
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", fmt.Sprint(file[k])); err != nil {
			t.Errorf("%s is %v", k, file[k])
		}
	}
	if raw.Files[0]["is_dir"] != true {
		t.Errorf("%v", raw.Files[0])
	}
	f.get("/files/list"+q(dir+"/none")).fails(404, api.CodeFileNotFound)
	f.get("/files/list"+q(dir+"/a/f.txt")).fails(400, api.CodeFileOperationFailed)
	var empty struct{ Files json.RawMessage }
	f.get("/files/list" + q(dir+"/a/b/ü")).want(200).into(&empty)
	if string(empty.Files) != "[]" {
		t.Errorf("%s", empty.Files)
	}
	for p, want := range map[string]bool{dir + "/a": true, dir + "/a/f.txt": true, dir + "/none": false, dir + "/a/f.txt/x": false, "/": true} {
		var e api.FileExists
		f.get("/files/exists" + q(p)).want(200).into(&e)
		if e.Exists != want {
			t.Errorf("%s: %+v", p, e)
		}
	}
	f.call(http.MethodDelete, "/files/remove"+q(dir+"/a"), nil).want(200)
	f.call(http.MethodDelete, "/files/remove"+q(dir+"/a"), nil).fails(404, api.CodeFileNotFound)
	f.call(http.MethodDelete, "/files/remove"+q("/"), nil).fails(403, api.CodePathNotAllowed)
	f.call(http.MethodDelete, "/files/remove"+q("/tmp/.."), nil).fails(403, api.CodePathNotAllowed)
	f.call(http.MethodDelete, "/files/remove", nil).fails(400, api.CodeMissingParameter)
}
