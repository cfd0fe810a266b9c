package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/hutch-sh/hutch"
)

// Pull fetches an OCI or Docker image by its reference, flattens it, and makes
// it an image called imgName. creds may be nil, and so may progress, which must
// not block. An image that is refused or cannot be fetched leaves nothing.
//
// Kinds of error: Invalid for a reference or an image that is wrong and stays
// so, TooLarge beyond a limit, NotFound and Forbidden as the registry says (and
// Forbidden for a registry at an address that may not be reached), Unavailable
// when trying again may help.
func (s *Store) Pull(ctx context.Context, imgName, ref string, creds *Credentials, progress func(Progress)) (Image, error) {
	const op = "image.Pull"
	r, err := name.ParseReference(ref)
	if err != nil {
		return Image{}, &hutch.Error{Kind: hutch.Invalid, Op: op, Msg: fmt.Sprintf("%q is no reference of an image", ref), Err: err}
	}
	g, err := s.guard(r.Context().Registry)
	if err != nil {
		return Image{}, err
	}
	defer g.inner.CloseIdleConnections()
	p := &pull{s: s, ref: r, budget: &budget{Limits: s.o.Limits}, options: []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(g), remote.WithAuth(creds.authenticator()),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
	}}
	img, t, err := p.flatten(ctx, imgName, progress)
	if err != nil {
		return Image{}, pullError(err)
	}
	defer p.spool.f.Close() // the image is written from it
	p.rep.begin("root filesystem")
	if img, err = s.commit(ctx, img, t); err != nil {
		return Image{}, err
	}
	p.rep.done()
	return img, nil
}

// A pull is the fetching of one image.
type pull struct {
	s       *Store
	ref     name.Reference
	options []remote.Option
	budget  *budget
	spool   *spool
	rep     *reporter
	raw     int64 // bytes of uncompressed layers so far
}

// flatten fetches the image and lays its layers over each other. On success
// p.spool is open and holds the contents of the tree.
func (p *pull) flatten(ctx context.Context, imgName string, progress func(Progress)) (Image, *tree, error) {
	desc, err := remote.Get(p.ref, p.options...)
	if err != nil {
		return Image{}, nil, err
	}
	if int64(len(desc.Manifest)) > p.budget.Manifest {
		return Image{}, nil, tooLarge("its manifest has more than %d bytes", p.budget.Manifest)
	}
	ri, err := desc.Image()
	if err != nil {
		return Image{}, nil, imageError(err)
	}
	m, cfg, err := p.describe(ri)
	if err != nil {
		return Image{}, nil, err
	}
	digest, err := ri.Digest()
	if err != nil {
		return Image{}, nil, err
	}
	img := Image{Name: imgName, Source: p.ref.Name() + "@" + digest.String()}
	if err := describePulled(&img, cfg); err != nil {
		return Image{}, nil, err
	}

	f, err := os.CreateTemp(p.s.path("build"), "spool-*.tmp")
	if err != nil {
		return Image{}, nil, &hutch.Error{Op: "image.Pull", Msg: "the image directory cannot be written", Err: err}
	}
	// Without a name at once: whatever ends us, nothing of it stays.
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return Image{}, nil, &hutch.Error{Op: "image.Pull", Msg: "the image directory cannot be written", Err: err}
	}
	p.spool = newSpool(f)
	p.rep = newReporter(progress, imgName, len(m.Layers)+1)
	t := newTree()
	for i, l := range m.Layers {
		p.rep.begin(fmt.Sprintf("layer %d of %d", i+1, len(m.Layers)))
		before := p.spool.end
		if err := p.layer(ctx, t, l, cfg.RootFS.DiffIDs[i]); err != nil {
			f.Close()
			return Image{}, nil, err
		}
		img.Parts = append(img.Parts, Part{l.Digest.String(), p.spool.end - before})
		p.rep.done()
	}
	return img, t, nil
}

// imageError classes an error of the library about what a registry sent.
func imageError(err error) error {
	if strings.Contains(err.Error(), "no child with platform") {
		return &hutch.Error{Kind: hutch.Invalid, Op: "image.Pull", Msg: "the image is not there for linux/" + runtime.GOARCH, Err: err}
	}
	return err
}

// describe fetches and checks the manifest and the configuration.
func (p *pull) describe(ri v1.Image) (*v1.Manifest, *v1.ConfigFile, error) {
	raw, err := ri.RawManifest()
	if err != nil {
		return nil, nil, err
	}
	if int64(len(raw)) > p.budget.Manifest {
		return nil, nil, tooLarge("its manifest has more than %d bytes", p.budget.Manifest)
	}
	m, err := ri.Manifest()
	if err != nil {
		return nil, nil, refused("its manifest cannot be read")
	}
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON:
	default:
		return nil, nil, refused("it is a %q, not a root filesystem", m.Config.MediaType)
	}
	if m.Config.Size > p.budget.Manifest || int64(len(m.Config.Data)) > p.budget.Manifest {
		return nil, nil, tooLarge("its configuration has more than %d bytes", p.budget.Manifest)
	}
	if len(m.Layers) > p.budget.Layers {
		return nil, nil, tooLarge("more than %d layers", p.budget.Layers)
	}
	for _, l := range m.Layers {
		if l.Size < 0 || l.Size > p.budget.LayerBytes {
			return nil, nil, tooLarge("a layer of more than %d bytes", p.budget.LayerBytes)
		}
	}
	raw, err = ri.RawConfigFile()
	if err != nil {
		return nil, nil, err
	}
	cfg, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, refused("its configuration cannot be read")
	}
	if cfg.OS != "" && cfg.OS != "linux" || cfg.Architecture != "" && cfg.Architecture != runtime.GOARCH {
		return nil, nil, refused("it is for %s/%s, this machine is linux/%s", cfg.OS, cfg.Architecture, runtime.GOARCH)
	}
	if len(cfg.RootFS.DiffIDs) != len(m.Layers) {
		return nil, nil, refused("it has %d layers and describes %d", len(m.Layers), len(cfg.RootFS.DiffIDs))
	}
	return m, cfg, nil
}

// maxEnv bounds the environment of an image, which every sandbox carries.
const maxEnv = 64 << 10

// describePulled fills in what the configuration says.
func describePulled(img *Image, cfg *v1.ConfigFile) error {
	img.DisplayName = img.Name
	img.Category = "custom"
	img.Features, img.Tags = []string{}, []string{}
	img.Default = hutch.Resources{VCPU: 2, MemoryMB: 2 << 10, DiskMB: 10 << 10}
	img.Min = hutch.Resources{VCPU: 1, MemoryMB: 512, DiskMB: 1 << 10}
	img.Max = hutch.Resources{VCPU: 16, MemoryMB: 64 << 10, DiskMB: 250 << 10}
	img.User = cfg.Config.User
	if img.Workdir = cfg.Config.WorkingDir; img.Workdir != "" && !path.IsAbs(img.Workdir) {
		return refused("its working directory %q is not absolute", img.Workdir)
	}
	img.Env = map[string]string{}
	size := 0
	for _, kv := range cfg.Config.Env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.ContainsRune(kv, 0) {
			return refused("its environment holds %q", kv)
		}
		if size += len(kv); size > maxEnv {
			return tooLarge("an environment of more than %d bytes", maxEnv)
		}
		img.Env[k] = v
	}
	return nil
}

// layer fetches one layer and lays it over t. It is asked for by its digest at
// the registry the image came from; other places the manifest may name for it
// are never looked at.
func (p *pull) layer(ctx context.Context, t *tree, l v1.Descriptor, diffID v1.Hash) error {
	rl, err := remote.Layer(p.ref.Context().Digest(l.Digest.String()), p.options...)
	if err != nil {
		return err
	}
	rc, err := rl.Compressed() // checks the digest when it is read to its end
	if err != nil {
		return err
	}
	defer rc.Close()
	sized := &sizedReader{r: &meter{ctxReader{ctx, rc}, p.rep.moved}, left: l.Size}
	h := sha256.New()
	err = p.unpack(t, sized, h)
	switch {
	case sized.err != nil: // the cause of whatever else went wrong
		return sized.err
	case err != nil:
		return err
	case sized.left != 0:
		return refused("a layer is %d bytes shorter than its manifest says", sized.left)
	}
	if diffID.Algorithm != "sha256" || hex.EncodeToString(h.Sum(nil)) != diffID.Hex {
		return refused("a layer is not the one its configuration describes")
	}
	return nil
}

// unpack lays the packed layer in r over t and reads r to its end, giving all
// that was unpacked to h.
func (p *pull) unpack(t *tree, r io.Reader, h io.Writer) error {
	plain, err := decompress(r)
	if err != nil {
		return brokenArchive(err)
	}
	defer plain.Close()
	body := &rawReader{p: p, r: io.TeeReader(plain, h)}
	if err := t.addLayer(body, p.spool, p.budget); err != nil {
		return err
	}
	// What follows the archive counts for the digests, so it is read, too.
	if _, err := io.Copy(io.Discard, body); err != nil {
		return brokenArchive(err)
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// sizedReader fails when more comes than was announced, and remembers how its
// source failed.
type sizedReader struct {
	r    io.Reader
	left int64
	err  error
}

func (s *sizedReader) Read(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	// One byte more is asked for, so that the end is seen, and too much, too.
	if int64(len(b)) > s.left+1 {
		b = b[:s.left+1]
	}
	n, err := s.r.Read(b)
	if s.left -= int64(n); s.left < 0 {
		n, err = 0, refused("a layer is longer than its manifest says")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// rawReader counts the uncompressed bytes of all layers, headers and what
// follows the archives included, so that nothing inflates without end.
type rawReader struct {
	p *pull
	r io.Reader
}

func (c *rawReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if c.p.raw += int64(n); c.p.raw > c.p.budget.TotalBytes {
		return 0, tooLarge("more than %d bytes unpacked", c.p.budget.TotalBytes)
	}
	return n, err
}

// decompress tells how a layer is packed from its first bytes, as media types
// are often wrong, and unpacks it in this process: never with a program, least
// of all one found by name.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
