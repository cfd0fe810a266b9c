package image

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/sync/errgroup"

	"github.com/hutch-sh/hutch"
)

// maxDownload bounds one file of a registry.
const maxDownload = 1 << 30

// An artifact is a file to fetch from a registry, known by its checksum. The
// checksum is ours, so neither the registry nor the way there is trusted.
type artifact struct {
	name string // file name
	sum  string // "sha256:<hex>", "sha512-<base64>" as npm writes it, or "h1:<base64>" as Go's checksum database does
	url  func(ctx context.Context) (string, error)
}

// cached returns where the artifact lies once it has been fetched and checked.
func (s *Store) cached(a artifact) string {
	id := sha256.Sum256([]byte(a.sum))
	return s.path("build", "cache", hex.EncodeToString(id[:6])+"-"+a.name)
}

// A downloader fetches artifacts into the store's cache.
type downloader struct {
	s      *Store
	client *http.Client
}

func (s *Store) downloader() (*downloader, error) {
	roots, err := s.trust()
	if err != nil {
		return nil, err
	}
	return &downloader{s: s, client: &http.Client{Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots},
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
	}}}, nil
}

// close ends idle connections.
func (d *downloader) close() { d.client.CloseIdleConnections() }

// trust returns the certificate authorities of the system and of ExtraCA.
func (s *Store) trust() (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, &hutch.Error{Op: "image.Store", Msg: "the system's certificate authorities cannot be read", Err: err}
	}
	for _, pem := range s.extraCA {
		roots.AppendCertsFromPEM(pem)
	}
	return roots, nil
}

// fetch returns when all artifacts are in the cache, fetching those that are
// not, several at a time. moved is told of every byte, from any goroutine.
func (d *downloader) fetch(ctx context.Context, as []artifact, moved func(int64)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(6)
	for _, a := range as {
		g.Go(func() error { return d.fetchOne(ctx, a, moved) })
	}
	return g.Wait()
}

func (d *downloader) fetchOne(ctx context.Context, a artifact, moved func(int64)) error {
	const op = "image.Prepare"
	dst := d.s.cached(a)
	if _, err := os.Lstat(dst); err == nil {
		return nil // it got its name only after it had been checked
	} else if !errors.Is(err, fs.ErrNotExist) {
		return &hutch.Error{Op: op, Msg: "the download cache cannot be read", Err: err}
	}
	var err error
	for try := range 4 {
		if try > 0 {
			if err := wait(ctx, time.Second<<try); err != nil {
				return err
			}
		}
		if err = d.download(ctx, a, dst, moved); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.s.o.Log.Warn("download failed", "file", a.name, "try", try+1, "err", err)
	}
	return &hutch.Error{Kind: hutch.Unavailable, Op: op, Msg: "cannot download " + a.name + ", or it is not what it should be", Err: err}
}

func (d *downloader) download(ctx context.Context, a artifact, dst string, moved func(int64)) error {
	url, err := a.url(ctx)
	if err != nil {
		return err
	}
	body, err := d.get(ctx, url, "")
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.CreateTemp(filepath.Dir(dst), "get-*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(&meter{body, moved}, maxDownload+1))
	if err != nil {
		return err
	}
	if n > maxDownload {
		return fmt.Errorf("more than %d bytes", maxDownload)
	}
	if err := checkSum(f, a.sum); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), dst)
}

// get opens url. The body ends with an error when nothing comes for a minute.
func (d *downloader) get(ctx context.Context, url, accept string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		cancel(nil)
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	b := &idleBody{ReadCloser: resp.Body, cancel: cancel}
	b.timer = time.AfterFunc(time.Minute, func() { cancel(errors.New("no data for a minute")) })
	return b, nil
}

// idleBody is a response body that is given up when it stands still.
type idleBody struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	b.timer.Reset(time.Minute)
	return b.ReadCloser.Read(p)
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// meter reports what is read through it.
type meter struct {
	r     io.Reader
	moved func(int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.moved != nil {
		m.moved(int64(n))
	}
	return n, err
}

// checkSum compares the whole of f with sum.
func checkSum(f *os.File, sum string) error {
	if strings.HasPrefix(sum, "h1:") {
		got, err := dirhash.HashZip(f.Name(), dirhash.Hash1)
		if err != nil {
			return err
		}
		if got != sum {
			return fmt.Errorf("its checksum is %s, expected %s", got, sum)
		}
		return nil
	}
	var h hash.Hash
	var encode func([]byte) string
	algorithm := sum[:7]
	switch algorithm {
	case "sha256:":
		h, encode = sha256.New(), hex.EncodeToString
	case "sha512-":
		h, encode = sha512.New(), base64.StdEncoding.EncodeToString
	default:
		return fmt.Errorf("unknown kind of checksum %q", sum)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := algorithm + encode(h.Sum(nil)); got != sum {
		return fmt.Errorf("its checksum is %s, expected %s", got, sum)
	}
	return nil
}

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
