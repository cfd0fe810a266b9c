package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hutch-sh/hutch"
)

// A Store keeps root filesystems in a directory: <digest>.erofs and its
// manifest <digest>.json, and in build/ what is needed to make more.
//
// A manifest is written last and by rename, so an image that was not finished
// is not there. Its methods may be called from any goroutine.
type Store struct {
	dir   string
	o     Options
	build chan struct{} // holds a token while nobody prepares; see lockBuild

	extraCA [][]byte // the certificates of Options.ExtraCA, one PEM file each
}

// manifestSuffix and imageSuffix end the names of the two files of an image.
const (
	manifestSuffix = ".json"
	imageSuffix    = ".erofs"
)

// Open opens the store in dir, making it if there is none, and clears what an
// interrupted write left.
func Open(dir string, o Options) (*Store, error) {
	const op = "image.Open"
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, &hutch.Error{Op: op, Msg: "the image directory cannot be used", Err: err}
	}
	s := &Store{dir: abs, o: o.withDefaults(), build: make(chan struct{}, 1)}
	s.build <- struct{}{}
	if o.ExtraCA != "" {
		raw, err := os.ReadFile(o.ExtraCA)
		if err == nil {
			s.extraCA, err = splitPEM(raw)
		}
		if err != nil {
			return nil, &hutch.Error{Kind: hutch.Invalid, Op: op, Msg: "the extra certificate authorities cannot be used", Err: err}
		}
	}
	for _, d := range []string{s.dir, s.path("build"), s.path("build", "cache"), s.path("build", "steps")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, &hutch.Error{Op: op, Msg: "the image directory cannot be made", Err: err}
		}
	}
	// Builds bind directories by their real names.
	if s.dir, err = filepath.EvalSymlinks(s.dir); err != nil {
		return nil, &hutch.Error{Op: op, Msg: "the image directory cannot be found", Err: err}
	}
	if err := s.clear(); err != nil {
		return nil, &hutch.Error{Op: op, Msg: "the rest of an interrupted write cannot be removed", Err: err}
	}
	return s, nil
}

// clear removes what interrupted writes left: files with temporary names, and
// images whose manifest was not written any more. A file that is being written
// is locked by its writer.
func (s *Store) clear() error {
	ents, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		name := e.Name()
		if hexed, ok := strings.CutSuffix(name, imageSuffix); ok && digestShape.MatchString("sha256:"+hexed) {
			if _, err := os.Lstat(s.path(hexed + manifestSuffix)); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
		} else if !strings.HasSuffix(name, ".tmp") {
			continue
		}
		if err := removeUnlocked(s.path(name)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

var digestShape = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// base returns the path of both files of an image, less their suffixes. It is
// the only way from a digest to a path.
func (s *Store) base(d hutch.Digest) (string, error) {
	if !digestShape.MatchString(string(d)) {
		return "", &hutch.Error{Kind: hutch.Invalid, Op: "image.Store", Msg: "not a digest of an image"}
	}
	return s.path(strings.TrimPrefix(string(d), "sha256:")), nil
}

// Images returns the images that are ready, oldest first: of two with one name
// the later one counts. An image whose manifest or file cannot be used is left
// out and logged.
func (s *Store) Images() ([]Image, error) {
	ents, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, &hutch.Error{Op: "image.Images", Msg: "the image directory cannot be read", Err: err}
	}
	var out []Image
	for _, e := range ents {
		hexed, ok := strings.CutSuffix(e.Name(), manifestSuffix)
		if !ok {
			continue
		}
		img, err := s.image(hutch.Digest("sha256:" + hexed))
		if err != nil {
			if hutch.KindOf(err) != hutch.NotFound { // removed meanwhile
				s.o.Log.Warn("image left out", "manifest", e.Name(), "err", err)
			}
			continue
		}
		out = append(out, img)
	}
	slices.SortStableFunc(out, func(a, b Image) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

// image reads and checks one manifest and the file it describes.
func (s *Store) image(d hutch.Digest) (Image, error) {
	const op = "image.Store"
	base, err := s.base(d)
	if err != nil {
		return Image{}, err
	}
	raw, err := os.ReadFile(base + manifestSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, &hutch.Error{Kind: hutch.NotFound, Op: op, Msg: "there is no image " + string(d)}
	}
	if err != nil {
		return Image{}, &hutch.Error{Op: op, Msg: "the manifest of an image cannot be read", Err: err}
	}
	var img Image
	if err := json.Unmarshal(raw, &img); err != nil {
		return Image{}, &hutch.Error{Op: op, Msg: "the manifest of an image is damaged", Err: err}
	}
	if img.Digest != d {
		return Image{}, &hutch.Error{Op: op, Msg: "a manifest names another image than its own"}
	}
	st, err := os.Lstat(base + imageSuffix)
	if err != nil {
		return Image{}, &hutch.Error{Op: op, Msg: "the file of an image is missing", Err: err}
	}
	if !st.Mode().IsRegular() || st.Size() != img.Size {
		return Image{}, &hutch.Error{Op: op, Msg: fmt.Sprintf("the file of an image is damaged: %v of %d bytes, expected %d", st.Mode(), st.Size(), img.Size)}
	}
	return img, nil
}

// Rootfs returns the path of the EROFS file of d, after checking that it is a
// regular file of the size its manifest says. NotFound without such an image.
func (s *Store) Rootfs(d hutch.Digest) (string, error) {
	if _, err := s.image(d); err != nil {
		return "", err
	}
	base, err := s.base(d)
	if err != nil {
		return "", err
	}
	return base + imageSuffix, nil
}

// Verify reads the whole file of d and compares it with its digest.
func (s *Store) Verify(ctx context.Context, d hutch.Digest) error {
	const op = "image.Verify"
	name, err := s.Rootfs(d)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return &hutch.Error{Op: op, Msg: "the file of an image cannot be read", Err: err}
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, ctxReader{ctx, f}); err != nil {
		return &hutch.Error{Kind: hutch.KindOf(err), Op: op, Msg: "the file of an image cannot be read", Err: err}
	}
	if "sha256:"+hex.EncodeToString(h.Sum(nil)) != string(d) {
		return &hutch.Error{Op: op, Msg: "the file of an image is damaged: its digest is another"}
	}
	return nil
}

// Remove forgets d. Sandboxes that run from it keep its bytes until they end.
// NotFound without such an image.
func (s *Store) Remove(d hutch.Digest) error {
	const op = "image.Remove"
	base, err := s.base(d)
	if err != nil {
		return err
	}
	// The manifest goes first: an image without one is not there.
	switch err := os.Remove(base + manifestSuffix); {
	case errors.Is(err, fs.ErrNotExist):
		return &hutch.Error{Kind: hutch.NotFound, Op: op, Msg: "there is no image " + string(d)}
	case err != nil:
		return &hutch.Error{Op: op, Msg: "an image cannot be removed", Err: err}
	}
	if err := os.Remove(base + imageSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &hutch.Error{Op: op, Msg: "the file of a removed image remains", Err: err}
	}
	return syncDir(s.dir)
}

// commit writes t as an image and its manifest. img comes without digest, size,
// files and creation time, and is returned with them. On error nothing of it is
// left.
func (s *Store) commit(ctx context.Context, img Image, t *tree) (Image, error) {
	const op = "image.commit"
	fail := func(err error) (Image, error) {
		var he *hutch.Error
		if errors.As(err, &he) {
			return Image{}, err
		}
		return Image{}, &hutch.Error{Kind: hutch.KindOf(err), Op: op, Msg: "an image cannot be written", Err: err}
	}
	if err := t.furnish(); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(s.dir, "image-*.tmp")
	if err != nil {
		return fail(err)
	}
	defer os.Remove(f.Name()) // after a success it has another name
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fail(err)
	}
	h := sha256.New()
	size, err := writeEROFS(io.MultiWriter(ctxWriter{ctx, f}, h), t)
	if err != nil {
		return fail(err)
	}
	if err := f.Chmod(0o444); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	img.Digest = hutch.Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
	img.Size, img.Files, img.Created = size, t.files, time.Now().UTC().Truncate(time.Millisecond)
	base, err := s.base(img.Digest)
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(f.Name(), base+imageSuffix); err != nil {
		return fail(err)
	}
	if old, err := s.image(img.Digest); err == nil && old.Recipe != "" && img.Recipe == "" {
		// The same bytes were prepared here before. A pulled image that equals
		// a prepared one must not take its place in the list.
		return img, nil
	}
	if err := s.putManifest(img); err != nil {
		return fail(err)
	}
	s.o.Log.Info("image ready", "name", img.Name, "digest", img.Digest, "bytes", img.Size, "files", img.Files)
	return img, nil
}

// putManifest writes the manifest of img, which makes it ready.
func (s *Store) putManifest(img Image) error {
	base, err := s.base(img.Digest)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(base+manifestSuffix, append(raw, '\n'), 0o444)
}
