package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/hutch-sh/hutch"
)

func TestMain(m *testing.M) {
	if helper() {
		return
	}
	goleak.VerifyTestMain(m)
}

func digestOf(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// A fakeImage is an image put together by hand, so that any part of it can be
// made wrong.
type fakeImage struct {
	layers [][]byte       // as they are served
	plain  [][]byte       // what their diff ids are made of
	config map[string]any // changes to the configuration
	edit   func(m map[string]any)
}

func simple(t testing.TB, hs ...tar.Header) fakeImage {
	body := map[string][]byte{}
	for _, h := range hs {
		body[h.Name] = []byte("contents of " + h.Name)
	}
	b := tarOf(t, hs, body)
	return fakeImage{layers: [][]byte{gzipped(b)}, plain: [][]byte{b}}
}

// push uploads the image as repository:tag to the registry at base.
func (f fakeImage) push(t testing.TB, base, repository, tag string) {
	t.Helper()
	blob := func(b []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/v2/"+repository+"/blobs/uploads/?digest="+digestOf(b), bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		do(t, req, http.StatusCreated)
	}
	var layers []any
	var diffs []string
	for i, l := range f.layers {
		blob(l)
		layers = append(layers, map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": len(l), "digest": digestOf(l)})
		diffs = append(diffs, digestOf(f.plain[i]))
	}
	cfg := map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
		"config": map[string]any{"Env": []string{"PATH=/usr/bin", "A=b=c"}, "WorkingDir": "/srv", "User": "1000:1000"},
	}
	for k, v := range f.config {
		cfg[k] = v
	}
	rawCfg, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	blob(rawCfg)
	m := map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(rawCfg), "digest": digestOf(rawCfg)},
		"layers": layers,
	}
	if f.edit != nil {
		f.edit(m)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+"/v2/"+repository+"/manifests/"+tag, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", m["mediaType"].(string))
	do(t, req, http.StatusCreated)
}

func do(t testing.TB, req *http.Request, want int) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	if resp.StatusCode != want {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s %s", req.Method, req.URL, resp.Status, b)
	}
}

// serve starts a registry; wrap may be nil.
func serve(t testing.TB, wrap func(http.Handler) http.Handler) (base, host string) {
	t.Helper()
	var h http.Handler = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL, strings.TrimPrefix(srv.URL, "http://")
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "images"), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leftovers fails the test if a failed pull left anything.
func leftovers(t *testing.T, s *Store) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s was left", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPull(t *testing.T) {
	base, host := serve(t, nil)
	f := simple(t, dir("etc"), file("etc/motd"), sym("bin", "usr/bin"))
	second := tarOf(t, []tar.Header{file("etc/.wh.motd"), file("etc/os"), hard("os", "etc/os")}, map[string][]byte{"etc/os": []byte("two")})
	third := tarOf(t, []tar.Header{file("etc/three")}, map[string][]byte{"etc/three": []byte("3")})
	f.layers = append(f.layers, zstded(t, second), third)
	f.plain = append(f.plain, second, third)
	f.push(t, base, "team/app", "v1")

	s := open(t, Options{AllowPrivate: true})
	var last Progress
	img, err := s.Pull(t.Context(), "app", host+"/team/app:v1", nil, func(p Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || last.Total != 4 || last.Template != "app" {
		t.Errorf("last progress: %+v", last)
	}
	if img.Name != "app" || img.Workdir != "/srv" || img.User != "1000:1000" || img.Env["A"] != "b=c" || len(img.Parts) != 3 {
		t.Errorf("image: %+v", img)
	}
	if !strings.HasPrefix(img.Source, host+"/team/app:v1@sha256:") {
		t.Errorf("source %q", img.Source)
	}
	name, err := s.Rootfs(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	fsys := readBack(t, raw)
	for name, want := range map[string]string{"etc/os": "two", "os": "two", "etc/three": "3"} {
		if b, err := fs.ReadFile(fsys, name); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	if _, err := fs.Lstat(fsys, "etc/motd"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("etc/motd: %v", err)
	}
	again, err := s.Pull(t.Context(), "app2", host+"/team/app:v1", nil, nil)
	if err != nil || again.Digest != img.Digest {
		t.Errorf("the same image again: %v %v", again.Digest, err)
	}
	if m, _ := filepath.Glob(s.path("build", "*")); len(m) != 2 { // cache and steps
		t.Errorf("left in build: %v", m)
	}
}

func TestPullRefuses(t *testing.T) {
	base, host := serve(t, nil)
	ok := func() fakeImage { return simple(t, file("a")) }
	for _, tt := range []struct {
		name string
		make func() fakeImage
		lim  Limits
		want hutch.Kind
	}{
		{"hostile layer", func() fakeImage { return simple(t, file("../a")) }, Limits{}, hutch.Invalid},
		{"device", func() fakeImage { return simple(t, tar.Header{Name: "dev/cuse", Typeflag: tar.TypeChar}) }, Limits{}, hutch.Invalid},
		{"truncated layer", func() fakeImage {
			f := ok()
			f.layers[0] = f.layers[0][:len(f.layers[0])/2]
			return f
		}, Limits{}, hutch.Invalid},
		{"layer that is no archive", func() fakeImage {
			f := ok()
			f.layers[0] = bytes.Repeat([]byte("junk"), 1000)
			return f
		}, Limits{}, hutch.Invalid},
		{"damaged gzip", func() fakeImage {
			f := ok()
			f.layers[0][len(f.layers[0])-5] ^= 1
			return f
		}, Limits{}, hutch.Invalid},
		{"other contents than the configuration says", func() fakeImage {
			f := ok()
			f.plain[0] = []byte("something else")
			return f
		}, Limits{}, hutch.Invalid},
		{"layer shorter than announced", func() fakeImage {
			f := ok()
			f.edit = func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["size"] = len(f.layers[0]) + 10 }
			return f
		}, Limits{}, hutch.Invalid},
		{"layer longer than announced", func() fakeImage {
			f := ok()
			f.edit = func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["size"] = 20 }
			return f
		}, Limits{}, hutch.Invalid},
		{"negative size", func() fakeImage {
			f := ok()
			f.edit = func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["size"] = -1 }
			return f
		}, Limits{}, hutch.TooLarge},
		{"more layers than described", func() fakeImage {
			f := ok()
			f.edit = func(m map[string]any) { m["layers"] = append(m["layers"].([]any), m["layers"].([]any)[0]) }
			return f
		}, Limits{}, hutch.Invalid},
		{"for Windows", func() fakeImage { f := ok(); f.config = map[string]any{"os": "windows"}; return f }, Limits{}, hutch.Invalid},
		{"for another processor", func() fakeImage { f := ok(); f.config = map[string]any{"architecture": "s390x"}; return f }, Limits{}, hutch.Invalid},
		{"a chart", func() fakeImage {
			f := ok()
			f.edit = func(m map[string]any) {
				m["config"].(map[string]any)["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
			}
			return f
		}, Limits{}, hutch.Invalid},
		{"relative working directory", func() fakeImage {
			f := ok()
			f.config = map[string]any{"config": map[string]any{"WorkingDir": "../x"}}
			return f
		}, Limits{}, hutch.Invalid},
		{"nameless variable", func() fakeImage {
			f := ok()
			f.config = map[string]any{"config": map[string]any{"Env": []string{"=x"}}}
			return f
		}, Limits{}, hutch.Invalid},
		{"endless environment", func() fakeImage {
			f := ok()
			f.config = map[string]any{"config": map[string]any{"Env": []string{"A=" + strings.Repeat("x", maxEnv)}}}
			return f
		}, Limits{}, hutch.TooLarge},
		{"large manifest", func() fakeImage {
			f := ok()
			f.edit = func(m map[string]any) { m["annotations"] = map[string]string{"x": strings.Repeat("x", 3000)} }
			return f
		}, Limits{Manifest: 2000}, hutch.TooLarge},
		{"large configuration", func() fakeImage {
			f := ok()
			f.config = map[string]any{"comment": strings.Repeat("x", 3000)}
			return f
		}, Limits{Manifest: 2000}, hutch.TooLarge},
		{"many layers", func() fakeImage {
			f := ok()
			f.layers, f.plain = append(f.layers, f.layers[0]), append(f.plain, f.plain[0])
			return f
		}, Limits{Layers: 1}, hutch.TooLarge},
		{"large layer", ok, Limits{LayerBytes: 10}, hutch.TooLarge},
		{"bomb", func() fakeImage {
			b := tarOf(t, []tar.Header{file("a")}, map[string][]byte{"a": make([]byte, 4<<20)})
			return fakeImage{layers: [][]byte{gzipped(b)}, plain: [][]byte{b}}
		}, Limits{TotalBytes: 1 << 20}, hutch.TooLarge},
		{"bomb after the archive", func() fakeImage {
			b := append(tarOf(t, []tar.Header{file("a")}, nil), make([]byte, 4<<20)...)
			return fakeImage{layers: [][]byte{zstded(t, b)}, plain: [][]byte{b}}
		}, Limits{TotalBytes: 1 << 20}, hutch.TooLarge},
		{"sparse bomb", func() fakeImage {
			b := tarOf(t, []tar.Header{{Name: "a", Typeflag: tar.TypeDir}}, nil)
			copy(b[124:], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") // a size of 2^63-1
			b[156] = '0'
			sum := 0
			copy(b[148:156], "        ")
			for _, c := range b[:512] {
				sum += int(c)
			}
			copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
			return fakeImage{layers: [][]byte{gzipped(b)}, plain: [][]byte{b}}
		}, Limits{}, hutch.TooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.make()
			repo := "refused/" + strings.ToLower(strings.ReplaceAll(tt.name, " ", "-"))
			f.push(t, base, repo, "x")
			s := open(t, Options{AllowPrivate: true, Limits: tt.lim})
			_, err := s.Pull(t.Context(), "x", host+"/"+repo+":x", nil, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			if hutch.KindOf(err) != tt.want {
				t.Errorf("kind %d: %v", hutch.KindOf(err), err)
			}
			leftovers(t, s)
		})
	}
}

func TestPullBadReference(t *testing.T) {
	s := open(t, Options{})
	for _, ref := range []string{"", "UPPER/case", "ubuntu:alpine:latest", "http://x/y", "a b", "user:pw@host/x:y"} {
		if _, err := s.Pull(t.Context(), "x", ref, nil, nil); hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

func TestPullMissing(t *testing.T) {
	_, host := serve(t, nil)
	s := open(t, Options{AllowPrivate: true})
	if _, err := s.Pull(t.Context(), "x", host+"/no/such:tag", nil, nil); hutch.KindOf(err) != hutch.NotFound {
		t.Error(err)
	}
	leftovers(t, s)
}

// TestPullPrivate makes sure that nothing but a public address is dialled.
func TestPullPrivate(t *testing.T) {
	_, host := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("reached: %s", r.URL) })
	})
	_, port, _ := strings.Cut(host, ":")
	s := open(t, Options{})
	for _, ref := range []string{host + "/a:b", "localhost:" + port + "/a:b", "[::1]:" + port + "/a:b", "169.254.169.254/latest/meta-data:x"} {
		_, err := s.Pull(t.Context(), "x", ref, nil, nil)
		if hutch.KindOf(err) != hutch.Forbidden {
			t.Errorf("%s: kind %d: %v", ref, hutch.KindOf(err), err)
		}
	}
}

func TestPublicAddresses(t *testing.T) {
	for a, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.31.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "255.255.255.255": false, "224.0.0.1": false, "198.18.0.1": false,
		"::": false, "::1": false, "fe80::1": false, "fd00:ec2::254": false, "ff02::1": false, "fec0::1": false,
		"::ffff:127.0.0.1": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "fe80::1%eth0": false,
	} {
		if got := public(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

// TestPullRedirectToPrivate checks the guard where a public registry leads to a
// private address: the dialer decides, after the redirect and after DNS.
func TestPullRedirectToPrivate(t *testing.T) {
	hit := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hit = true }))
	defer inside.Close()
	_, err := publicDialer().DialContext(t.Context(), "tcp", strings.TrimPrefix(inside.URL, "http://"))
	if hutch.KindOf(err) != hutch.Forbidden {
		t.Error(err)
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(inside.URL, "http://"), ":")
	if _, err := publicDialer().DialContext(t.Context(), "tcp", "localhost:"+port); hutch.KindOf(err) != hutch.Forbidden {
		t.Error(err)
	}
	if hit {
		t.Error("reached")
	}
}

const (
	user = "jane"
	pass = "hunter2-planted"
)

// watch records the credentials that a server was sent.
type watch struct {
	mu   sync.Mutex
	seen []string
}

func (w *watch) see(r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := r.Header.Get("Authorization"); a != "" {
		w.seen = append(w.seen, r.URL.Path+" "+a)
	}
}

func (w *watch) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.seen...)
}

// private demands basic credentials for reading.
func private(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if (r.Method == http.MethodGet || r.Method == http.MethodHead) && (u != user || p != pass) {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func TestPullCredentials(t *testing.T) {
	base, host := serve(t, private)
	simple(t, file("a")).push(t, base, "p/q", "x")
	s := open(t, Options{AllowPrivate: true})
	for _, c := range []*Credentials{nil, {}, {user, "wrong"}, {"", pass}} {
		_, err := s.Pull(t.Context(), "x", host+"/p/q:x", c, nil)
		if hutch.KindOf(err) != hutch.Forbidden {
			t.Errorf("%v: %v", c, err)
		}
		if err != nil && strings.Contains(err.Error(), pass) {
			t.Errorf("the password is in the error: %v", err)
		}
	}
	if _, err := s.Pull(t.Context(), "x", host+"/p/q:x", &Credentials{user, pass}, nil); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprintf("%v %+v %#v", Credentials{user, pass}, &Credentials{user, pass}, Credentials{user, pass}); strings.Contains(got, pass) || strings.Contains(got, user) {
		t.Errorf("credentials in print: %s", got)
	}
}

// TestPullRedirectedBlobs has the registry send every blob from another host.
func TestPullRedirectedBlobs(t *testing.T) {
	var other watch
	var store http.Handler
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		other.see(r)
		store.ServeHTTP(w, r)
	}))
	defer cdn.Close()
	redirected := 0
	base, host := serve(t, func(h http.Handler) http.Handler {
		store = h
		return private(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				redirected++
				http.Redirect(w, r, cdn.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			h.ServeHTTP(w, r)
		}))
	})
	simple(t, file("a")).push(t, base, "p/q", "x")
	s := open(t, Options{AllowPrivate: true})
	if _, err := s.Pull(t.Context(), "x", host+"/p/q:x", &Credentials{user, pass}, nil); err != nil {
		t.Fatal(err)
	}
	if redirected == 0 {
		t.Error("nothing was redirected")
	}
	if got := other.all(); len(got) != 0 {
		t.Errorf("credentials went to another host: %q", got)
	}
}

// TestPullForeignRealm has the registry name a token service elsewhere.
func TestPullForeignRealm(t *testing.T) {
	var other watch
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		other.see(r)
		r.ParseForm()
		for k, v := range r.Form {
			if strings.Contains(strings.Join(v, " "), pass) {
				t.Errorf("the password is in parameter %s", k)
			}
		}
		fmt.Fprint(w, `{"token":"t0"}`)
	}))
	defer evil.Close()
	base, host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.Header.Get("Authorization") != "Bearer t0" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+evil.URL+`/token",service="s"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	simple(t, file("a")).push(t, base, "p/q", "x")
	s := open(t, Options{AllowPrivate: true})
	_, err := s.Pull(t.Context(), "x", host+"/p/q:x", &Credentials{user, pass}, nil)
	t.Logf("the pull itself: %v", err)
	if got := other.all(); len(got) != 0 {
		t.Errorf("credentials went to another host: %q", got)
	}
}

func TestGuardTrust(t *testing.T) {
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, tt := range []struct {
		registry, realm, to string
		want                bool
	}{
		{"index.docker.io", "https://auth.docker.io/token", "https://auth.docker.io/token?service=x", true},
		{"index.docker.io", "https://auth.docker.io/token", "https://auth.docker.io/other", false},
		{"index.docker.io", "https://auth.docker.io/token", "https://cdn.docker.io/token", false},
		{"index.docker.io", "https://auth.docker.io:8443/token", "https://auth.docker.io:8443/token", false},
		{"index.docker.io", "http://auth.docker.io/token", "http://auth.docker.io/token", false},
		{"index.docker.io", "https://docker.io.evil.com/token", "https://docker.io.evil.com/token", false},
		{"index.docker.io", "https://evildocker.io/token", "https://evildocker.io/token", false},
		{"registry.gitlab.com", "https://gitlab.com/jwt/auth", "https://gitlab.com/jwt/auth", true},
		{"a.github.io", "https://b.github.io/t", "https://b.github.io/t", false}, // github.io is a public suffix
		{"reg.co.uk", "https://other.co.uk/t", "https://other.co.uk/t", false},
		{"10.0.0.1:5000", "https://10.0.0.1/t", "https://10.0.0.1/t", false},
		{"10.0.0.1:5000", "https://20.0.0.1/t", "https://20.0.0.1/t", false},
		{"localhost:5000", "https://localhost/t", "https://localhost/t", false},
		{"reg.example.com", "https://u:p@auth.example.com/t", "https://auth.example.com/t", false},
		{"reg.example.com", "", "https://reg.example.com/v2/", true},
		{"reg.example.com", "", "https://reg.example.com:444/v2/", false},
	} {
		g := &guard{registry: tt.registry}
		g.learn([]string{`Bearer realm="` + tt.realm + `",service="x"`}, parse("https://"+tt.registry+"/v2/"))
		if got := g.trusted(parse(tt.to)); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// TestPullForeignLayers has a manifest name another place for its layer, which
// must not be visited even when the registry does not have it.
func TestPullForeignLayers(t *testing.T) {
	hit := make(chan string, 10)
	evil := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hit <- r.URL.Path }))
	defer evil.Close()
	gone := ""
	base, host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && gone != "" && strings.HasSuffix(r.URL.Path, gone) {
				http.NotFound(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	f := simple(t, file("a"))
	f.edit = func(m map[string]any) {
		l := m["layers"].([]any)[0].(map[string]any)
		l["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		l["urls"] = []string{evil.URL + "/layer"}
	}
	f.push(t, base, "p/q", "x")
	s := open(t, Options{AllowPrivate: true})
	if _, err := s.Pull(t.Context(), "x", host+"/p/q:x", &Credentials{user, pass}, nil); err != nil {
		t.Error(err)
	}
	gone = digestOf(f.layers[0])
	if _, err := s.Pull(t.Context(), "x", host+"/p/q:x", &Credentials{user, pass}, nil); hutch.KindOf(err) != hutch.NotFound {
		t.Error(err)
	}
	if len(hit) != 0 {
		t.Errorf("visited: %s", <-hit)
	}
}

// TestPullCutConnection ends the connection in the middle of a layer.
func TestPullCutConnection(t *testing.T) {
	cut := false
	base, host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if cut && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				if rec.Body.Len() > 500 { // the layer, not the configuration
					w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
					w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
					panic(http.ErrAbortHandler)
				}
				w.Write(rec.Body.Bytes())
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	b := tarOf(t, []tar.Header{file("a")}, map[string][]byte{"a": bytes.Repeat([]byte("abcdefg"), 1000)})
	(fakeImage{layers: [][]byte{b}, plain: [][]byte{b}}).push(t, base, "p/q", "x")
	cut = true
	s := open(t, Options{AllowPrivate: true})
	if _, err := s.Pull(t.Context(), "x", host+"/p/q:x", nil, nil); hutch.KindOf(err) != hutch.Unavailable {
		t.Errorf("kind %d: %v", hutch.KindOf(err), err)
	}
	leftovers(t, s)
}

// TestPullCanceled ends a pull while a layer is on its way.
func TestPullCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stop := make(chan struct{})
	slow := false
	base, host := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if slow && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				if rec.Body.Len() > 500 {
					w.Write(rec.Body.Bytes()[:400])
					w.(http.Flusher).Flush()
					cancel()
					<-stop
					return
				}
				w.Write(rec.Body.Bytes())
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	b := tarOf(t, []tar.Header{file("a")}, map[string][]byte{"a": bytes.Repeat([]byte("abcdefg"), 1000)})
	(fakeImage{layers: [][]byte{b}, plain: [][]byte{b}}).push(t, base, "p/q", "x")
	slow = true
	s := open(t, Options{AllowPrivate: true})
	_, err := s.Pull(ctx, "x", host+"/p/q:x", nil, nil)
	close(stop)
	if hutch.KindOf(err) != hutch.Canceled {
		t.Errorf("kind %d: %v", hutch.KindOf(err), err)
	}
	leftovers(t, s)
}

// TestPullIndex takes this machine's image out of one for several.
func TestPullIndex(t *testing.T) {
	base, host := serve(t, nil)
	simple(t, file("mine")).push(t, base, "p/q", "mine")
	for _, arch := range []string{runtime.GOARCH, "s390x"} {
		resp, err := http.Get(base + "/v2/p/q/manifests/mine")
		if err != nil {
			t.Fatal(err)
		}
		m, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
		if err != nil {
			t.Fatal(err)
		}
		idx, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
			"manifests": []any{map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": len(m), "digest": digestOf(m),
				"platform": map[string]any{"os": "linux", "architecture": arch}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+"/v2/p/q/manifests/all", bytes.NewReader(idx))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		do(t, req, http.StatusCreated)
		_, err = open(t, Options{AllowPrivate: true}).Pull(t.Context(), "x", host+"/p/q:all", nil, nil)
		if arch == runtime.GOARCH && err != nil || arch != runtime.GOARCH && hutch.KindOf(err) != hutch.Invalid {
			t.Errorf("%s: %v", arch, err)
		}
	}
}
