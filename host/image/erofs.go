package image

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
)

// EROFS on disk, as far as it is used here. See the Linux documentation,
// filesystems/erofs.
const (
	blockSize = 4096 // what the runtime demands: its page size
	erofsSlot = 32   // inodes stand at multiples of this, and are numbered by it

	superOffset = 1024
	superMagic  = 0xe0f5e1e2
	superSize   = 128
	inodeSize   = 64 // the extended form, which alone has room for a time
	direntSize  = 12

	compatChecksum = 1 << 0
	compatMtime    = 1 << 1

	layoutPlain  = 0
	layoutInline = 2
	formatBit    = 1 // extended inode
)

// rootSlot is the number of the root inode. It is not zero, which readdir
// treats as "no entry".
const rootSlot = 2

// Modes and directory entry types of each kind.
var (
	modeOf   = [...]uint16{kindFile: 0o100000, kindDir: 0o040000, kindSymlink: 0o120000, kindFIFO: 0o010000}
	direntOf = [...]byte{kindFile: 1, kindDir: 2, kindSymlink: 7, kindFIFO: 5}
)

// An erofsWriter lays out a tree and writes it as an EROFS image in one
// sequential pass.
//
// It exists beside go-erofs because of what the runtime's reader cannot do: it
// refuses to map a file whose bytes stand beside its inode, which go-erofs does
// with every small file, and a program that maps one (any that sets a locale)
// dies of SIGBUS. Here the bytes of every file stand in blocks of their own.
// Hard links stay hard links, and the same tree gives the same bytes.
type erofsWriter struct {
	w    *bufio.Writer
	pos  int64
	zero [blockSize]byte

	nodes []*placed
	of    map[*inode]*placed
	meta  int64 // bytes of the inode area
	data  int64 // blocks of the data area
}

// placed is an inode with its place in the image.
type placed struct {
	*inode
	parent *placed
	off    int64 // from the start of the inode area
	block  int64 // first block of its data, from the start of the data area
	blocks int64
	inline int // bytes that follow the inode

	// of a directory
	names  []string // sorted, with "." and ".."
	splits []int    // how many names each block holds
	size   int64
	nlink  uint32
}

// writeEROFS writes t to w as an EROFS image and returns its size in bytes,
// which is a multiple of the block size.
func writeEROFS(w io.Writer, t *tree) (int64, error) {
	e := &erofsWriter{w: bufio.NewWriterSize(w, 1<<20), of: map[*inode]*placed{}}
	if err := e.plan(t); err != nil {
		return 0, err
	}
	if err := e.write(); err != nil {
		return 0, fmt.Errorf("write image: %w", err)
	}
	return e.pos, nil
}

// plan gives every inode its place: inodes first, in the order of a walk, then
// the blocks of directories and files in the same order.
func (e *erofsWriter) plan(t *tree) error {
	e.place(t.root, nil)
	pos := int64(rootSlot * erofsSlot)
	for _, p := range e.nodes {
		tail := e.shape(p)
		// An inode does not straddle two blocks, nor do the bytes that follow it.
		need := int64(inodeSize + tail)
		if rest := blockSize - pos%blockSize; need > rest {
			if rest < inodeSize || need <= blockSize {
				pos += rest
			}
			if need > blockSize {
				need, tail = inodeSize, 0
				p.blocks++
			}
		}
		p.off, p.inline = pos, tail
		pos += roundUp(need, erofsSlot)
		p.block = e.data
		e.data += p.blocks
	}
	e.meta = roundUp(pos, blockSize)
	if 1+e.meta/blockSize+e.data > math.MaxUint32 {
		return tooLarge("it does not fit an EROFS image")
	}
	return nil
}

// place numbers n and all below it, a directory before its children. An inode
// with several names is placed once.
func (e *erofsWriter) place(n *inode, parent *placed) {
	if e.of[n] != nil {
		return
	}
	p := &placed{inode: n, parent: parent, nlink: n.links}
	e.of[n] = p
	e.nodes = append(e.nodes, p)
	if n.kind != kindDir {
		return
	}
	if parent == nil {
		p.parent = p
	}
	p.nlink = 2
	p.names = make([]string, 0, len(n.children)+2)
	p.names = append(p.names, ".", "..")
	for name, c := range n.children {
		p.names = append(p.names, name)
		if c.kind == kindDir {
			p.nlink++
		}
	}
	slices.SortFunc(p.names, cmp.Compare[string])
	for _, name := range p.names {
		if c := n.children[name].inode; c != nil {
			e.place(c, p)
		}
	}
}

// shape sets how many whole blocks p needs and returns how many bytes are left
// that could follow its inode.
func (e *erofsWriter) shape(p *placed) (tail int) {
	switch p.kind {
	case kindFile:
		p.size = p.inode.size
		p.blocks = (p.size + blockSize - 1) / blockSize
	case kindSymlink:
		p.size = int64(len(p.target))
		tail = len(p.target)
	case kindDir:
		used, count := 0, 0
		for _, name := range p.names {
			if used+direntSize+len(name) > blockSize {
				p.splits = append(p.splits, count)
				p.blocks++
				used, count = 0, 0
			}
			used += direntSize + len(name)
			count++
		}
		p.splits = append(p.splits, count)
		p.size = p.blocks*blockSize + int64(used)
		tail = used
	}
	return tail
}

func (e *erofsWriter) write() error {
	if err := e.put(e.superBlock()); err != nil {
		return err
	}
	start := 1 + e.meta/blockSize // first block of the data area
	for i, p := range e.nodes {
		if err := e.pad(blockSize + p.off); err != nil {
			return err
		}
		if err := e.put(e.inode(p, start, uint32(i+1))); err != nil {
			return err
		}
		if p.inline > 0 {
			if err := e.put(e.tail(p)); err != nil {
				return err
			}
		}
	}
	if err := e.pad(start * blockSize); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, p := range e.nodes {
		if p.blocks == 0 {
			continue
		}
		if err := e.contents(p, buf); err != nil {
			return err
		}
		if err := e.pad(roundUp(e.pos, blockSize)); err != nil {
			return err
		}
		if e.pos != (start+p.block+p.blocks)*blockSize {
			return errors.New("layout and contents disagree")
		}
	}
	return e.w.Flush()
}

// tail returns the bytes that follow the inode of p.
func (e *erofsWriter) tail(p *placed) []byte {
	if p.kind == kindSymlink {
		return []byte(p.target)
	}
	return e.dirents(p, len(p.splits)-1)
}

// contents writes the blocks of p.
func (e *erofsWriter) contents(p *placed, buf []byte) error {
	switch p.kind {
	case kindSymlink:
		return e.put([]byte(p.target))
	case kindDir:
		for i := range int(p.blocks) {
			if err := e.pad(roundUp(e.pos, blockSize)); err != nil {
				return err
			}
			if err := e.put(e.dirents(p, i)); err != nil {
				return err
			}
		}
		return nil
	}
	r, err := p.data.open()
	if err != nil {
		return err
	}
	defer r.Close()
	// One byte more than expected is asked for: a file that grew is as wrong as
	// one that shrank.
	n, err := io.CopyBuffer(struct{ io.Writer }{e.w}, struct{ io.Reader }{io.LimitReader(r, p.size+1)}, buf)
	e.pos += n
	if err != nil {
		return err
	}
	if n != p.size {
		return fmt.Errorf("a file of %d bytes changed while it was read", p.size)
	}
	return nil
}

func (e *erofsWriter) nid(p *placed) uint64 { return uint64(p.off / erofsSlot) }

// dirents encodes the i-th block of a directory: the entries, then the names.
func (e *erofsWriter) dirents(p *placed, i int) []byte {
	first := 0
	for _, n := range p.splits[:i] {
		first += n
	}
	names := p.names[first : first+p.splits[i]]
	b := make([]byte, len(names)*direntSize, blockSize)
	for j, name := range names {
		c := p
		switch name {
		case ".":
		case "..":
			c = p.parent
		default:
			c = e.of[p.children[name].inode]
		}
		d := b[j*direntSize:]
		binary.LittleEndian.PutUint64(d, e.nid(c))
		binary.LittleEndian.PutUint16(d[8:], uint16(len(b)))
		d[10] = direntOf[c.kind]
		b = append(b, name...)
	}
	return b
}

func (e *erofsWriter) inode(p *placed, start int64, number uint32) []byte {
	b := make([]byte, inodeSize)
	le := binary.LittleEndian
	layout := uint16(layoutPlain)
	if p.inline > 0 {
		layout = layoutInline
	}
	le.PutUint16(b[0:], formatBit|layout<<1)
	le.PutUint16(b[4:], modeOf[p.kind]|p.mode)
	le.PutUint64(b[8:], uint64(p.size))
	if p.blocks > 0 {
		le.PutUint32(b[16:], uint32(start+p.block))
	}
	le.PutUint32(b[20:], number)
	le.PutUint32(b[24:], p.uid)
	le.PutUint32(b[28:], p.gid)
	le.PutUint64(b[32:], uint64(p.mtime))
	le.PutUint32(b[40:], p.mtimeNs)
	le.PutUint32(b[44:], p.nlink)
	return b
}

func (e *erofsWriter) superBlock() []byte {
	b := make([]byte, blockSize)
	sb := b[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = 12 // log2 of the block size
	le.PutUint16(sb[14:], rootSlot)
	le.PutUint64(sb[16:], uint64(len(e.nodes)))
	le.PutUint32(sb[36:], uint32(1+e.meta/blockSize+e.data))
	le.PutUint32(sb[40:], 1) // the inode area starts at block 1
	copy(sb[64:80], "hutch")
	// The checksum covers the rest of the block with the checksum itself zero.
	le.PutUint32(sb[4:], ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func (e *erofsWriter) put(b []byte) error {
	n, err := e.w.Write(b)
	e.pos += int64(n)
	return err
}

// pad writes zeros up to pos.
func (e *erofsWriter) pad(pos int64) error {
	for e.pos < pos {
		if err := e.put(e.zero[:min(pos-e.pos, blockSize)]); err != nil {
			return err
		}
	}
	return nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
