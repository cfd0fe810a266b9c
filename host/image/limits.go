package image

import (
	"fmt"
	"math"

	"github.com/hutch-sh/hutch"
)

// Limits bound what one pulled image may cost. Zero fields mean the default.
// An image beyond any of them is refused with the kind hutch.TooLarge.
type Limits struct {
	Manifest   int64 // bytes of a manifest, an index or a configuration
	Layers     int   // layers of an image
	LayerBytes int64 // compressed bytes of one layer
	TotalBytes int64 // unpacked bytes of all layers together
	Files      int   // archive entries of all layers together, and names in the result
	NameBytes  int64 // bytes of all names and link targets together; they are held in memory
}

func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&l.Manifest, 4<<20)
	def(&l.LayerBytes, 16<<30)
	def(&l.TotalBytes, 48<<30)
	def(&l.NameBytes, 128<<20)
	if l.Layers == 0 {
		l.Layers = 256
	}
	if l.Files == 0 {
		l.Files = 600_000
	}
	return l
}

// A budget counts what an image has used of its limits. A nil budget is
// without limits, for what we make ourselves.
type budget struct {
	Limits
	files int
	names int64
	bytes int64
}

func tooLarge(format string, args ...any) error {
	return &hutch.Error{Kind: hutch.TooLarge, Op: "image", Msg: "image refused: " + fmt.Sprintf(format, args...)}
}

// file counts one archive entry.
func (b *budget) file() error {
	if b == nil {
		return nil
	}
	if b.files++; b.files > b.Files {
		return tooLarge("more than %d files", b.Files)
	}
	return nil
}

// live checks how many names the tree is about to hold, as one entry of an
// archive can bring thousands of directories.
func (b *budget) live(n int) error {
	if b != nil && n > b.Files {
		return tooLarge("more than %d files", b.Files)
	}
	return nil
}

// name counts n bytes of names that have to be kept in memory.
func (b *budget) name(n int) error {
	if b == nil {
		return nil
	}
	if b.names += int64(n); b.names > b.NameBytes {
		return tooLarge("more than %d bytes of names", b.NameBytes)
	}
	return nil
}

// left is how many bytes of contents may still come.
func (b *budget) left() int64 {
	if b == nil {
		return math.MaxInt64
	}
	return b.TotalBytes - b.bytes
}

// content counts n bytes of contents.
func (b *budget) content(n int64) error {
	if b == nil {
		return nil
	}
	if n > b.left() {
		return tooLarge("more than %d bytes unpacked", b.TotalBytes)
	}
	b.bytes += n
	return nil
}
