package payload

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Names of the programs a release carries.
const (
	Runsc = "runsc"       // cmd/runsc
	Agent = "hutch-agent" // cmd/hutch-agent
)

// ErrMissing says that this binary carries no such program: it was built with
// plain `go build` before `make build` had packed one.
var ErrMissing = errors.New("not carried by this binary: build it with `make build`")

// limit bounds what one program may unpack to, in bytes. It is a guard against
// a damaged file, far above the real sizes.
const limit = 512 << 20

// A Program is one packed executable.
type Program struct {
	Name string
	Sum  string // SHA-256 of the executable, 64 hex digits
	Size int64  // bytes of the executable

	packed []byte
}

// Read finds a program in a directory written by [Pack]. An absent one is
// [ErrMissing].
func Read(dir fs.FS, name string) (Program, error) {
	packed, err := fs.ReadFile(dir, name+".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return Program{}, fmt.Errorf("%s: %w", name, ErrMissing)
	} else if err != nil {
		return Program{}, fmt.Errorf("%s: %w", name, err)
	}
	line, err := fs.ReadFile(dir, name+".sum")
	if err != nil {
		return Program{}, fmt.Errorf("%s: %w", name, err)
	}
	sum, size, err := parseSum(string(line))
	if err != nil {
		return Program{}, fmt.Errorf("%s: %w", name, err)
	}
	return Program{Name: name, Sum: sum, Size: size, packed: packed}, nil
}

// File returns the name that Unpack gives the program: its own name and its
// digest, so that programs of different releases lie side by side and a running
// sandbox keeps the runtime it was started with.
func (p Program) File() string { return p.Name + "-" + p.Sum }

// WriteTo writes the executable's bytes. They are checked against Sum; on an
// error what was written must not be used.
func (p Program) WriteTo(w io.Writer) (int64, error) {
	z, err := zstd.NewReader(bytes.NewReader(p.packed))
	if err != nil {
		return 0, fmt.Errorf("unpack %s: %w", p.Name, err)
	}
	defer z.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), io.LimitReader(z, min(p.Size, limit)+1))
	if err != nil {
		return n, fmt.Errorf("unpack %s: %w", p.Name, err)
	}
	if n != p.Size || hexSum(h) != p.Sum {
		return n, fmt.Errorf("unpack %s: the carried bytes are damaged: build or download hutch again", p.Name)
	}
	return n, nil
}

// Unpack makes sure that dir holds the executable and returns its path. A file
// that is there already is read and checked, and replaced if it is not what it
// should be. The write is atomic: on an error nothing new is left in dir.
func (p Program) Unpack(dir string) (string, error) {
	path := filepath.Join(dir, p.File())
	if p.intact(path) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack %s: %w", p.Name, err)
	}
	tmp, err := os.CreateTemp(dir, ".unpack-*")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", p.Name, err)
	}
	if err := p.fill(tmp, path); err != nil {
		return "", errors.Join(fmt.Errorf("unpack %s: %w", p.Name, err), os.Remove(tmp.Name()))
	}
	return path, nil
}

// fill writes the executable to tmp, closes it and renames it to path.
func (p Program) fill(tmp *os.File, path string) error {
	_, err := p.WriteTo(tmp)
	if err == nil {
		err = tmp.Chmod(0o755)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// intact reports whether path is an executable regular file with the right bytes.
func (p Program) intact(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o755 || info.Size() != p.Size {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false
	}
	return hexSum(h) == p.Sum
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// parseSum reads "<64 hex digits> <size>\n".
func parseSum(line string) (sum string, size int64, err error) {
	sum, rest, ok := strings.Cut(strings.TrimSpace(line), " ")
	if b, e := hex.DecodeString(sum); !ok || e != nil || len(b) != sha256.Size {
		return "", 0, errors.New("the sum file is damaged: run `make clean build`")
	}
	size, err = strconv.ParseInt(rest, 10, 64)
	if err != nil || size <= 0 || size > limit {
		return "", 0, errors.New("the sum file is damaged: run `make clean build`")
	}
	return sum, size, nil
}
