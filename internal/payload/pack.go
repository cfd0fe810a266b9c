package payload

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// Pack compresses the executable at path into dir, as NAME.zst and NAME.sum,
// and reports whether it had to: a program that dir holds already is left as it
// is, so that what embeds dir is not built again for nothing.
func Pack(dir, name, path string) (changed bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	old, err := Read(os.DirFS(dir), name)
	if err == nil && old.Sum == sum && old.Size == int64(len(data)) {
		return false, nil
	}
	// The sum file goes first and comes last: without it the pair counts as damaged.
	sumFile := filepath.Join(dir, name+".sum")
	if err := os.Remove(sumFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return false, err
	}
	if _, err := z.Write(data); err != nil {
		return false, errors.Join(err, z.Close())
	}
	if err := z.Close(); err != nil {
		return false, err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".zst"), packed.Bytes(), 0o644); err != nil {
		return false, err
	}
	return true, os.WriteFile(sumFile, fmt.Appendf(nil, "%s %d\n", sum, len(data)), 0o644)
}
