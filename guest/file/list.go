package file

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hutch-sh/hutch/api"
)

// TempPrefix begins the names of files the agent is still writing. Listings
// leave them out.
const TempPrefix = ".hutch-tmp-"

// List returns the entries of a directory by name. Names that are not UTF-8
// are shown with replacements.
func List(path string) ([]api.FileInfo, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fault("read", path, err)
	}
	if !fi.IsDir() {
		return nil, api.AgentFileError(api.CodeFileOperationFailed, "Cannot list "+path+": it is not a directory", path, nil)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fault("list", path, err)
	}
	list := make([]api.FileInfo, 0, len(entries))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TempPrefix) {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		list = append(list, describe(filepath.Join(path, e.Name()), fi))
	}
	return list, nil
}

// describe is what clients are told about one entry.
func describe(path string, fi fs.FileInfo) api.FileInfo {
	info := api.FileInfo{
		Name: strings.ToValidUTF8(fi.Name(), "\uFFFD"), Path: strings.ToValidUTF8(path, "\uFFFD"),
		Size: fi.Size(), IsDirectory: fi.IsDir(),
		Permissions:  permissions(fi.Mode()),
		Mode:         fmt.Sprintf("%04o", kernelMode(fi.Mode())),
		ModifiedTime: api.Time{Time: modified(fi)},
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		info.IsSymlink = true
		if t, err := os.Readlink(path); err == nil {
			info.Target = strings.ToValidUTF8(t, "\uFFFD")
		}
		if to, err := os.Stat(path); err == nil {
			info.IsDirectory = to.IsDir()
		}
	}
	info.IsDir, info.Modified = info.IsDirectory, info.ModifiedTime
	return info
}

// modified returns when an entry was changed. Anybody can set that to a year
// that a timestamp cannot express; it would spoil the whole listing.
func modified(fi fs.FileInfo) time.Time {
	t := fi.ModTime().UTC()
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Unix(0, 0).UTC()
	}
	return t
}

// permissions writes a mode as ls does.
func permissions(m fs.FileMode) string {
	kind := byte('-')
	switch {
	case m.IsDir():
		kind = 'd'
	case m&fs.ModeSymlink != 0:
		kind = 'l'
	case m&fs.ModeNamedPipe != 0:
		kind = 'p'
	case m&fs.ModeSocket != 0:
		kind = 's'
	case m&fs.ModeCharDevice != 0:
		kind = 'c'
	case m&fs.ModeDevice != 0:
		kind = 'b'
	}
	out := []byte{kind, 'r', 'w', 'x', 'r', 'w', 'x', 'r', 'w', 'x'}
	for i := range 9 {
		if m&(1<<(8-i)) == 0 {
			out[i+1] = '-'
		}
	}
	for _, b := range []struct {
		bit      fs.FileMode
		at       int
		on, with byte // without and with the execute bit beside it
	}{{fs.ModeSetuid, 3, 'S', 's'}, {fs.ModeSetgid, 6, 'S', 's'}, {fs.ModeSticky, 9, 'T', 't'}} {
		switch {
		case m&b.bit == 0:
		case out[b.at] == 'x':
			out[b.at] = b.with
		default:
			out[b.at] = b.on
		}
	}
	return string(out)
}

// kernelMode returns permissions with the kernel's bits for set-id and sticky.
func kernelMode(m fs.FileMode) uint32 {
	n := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		n |= syscall.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		n |= syscall.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		n |= syscall.S_ISVTX
	}
	return n
}
