// Package file is the guest's file system as its user's clients see it: read,
// write, list, remove. The user is root in the sandbox and may reach every
// path; what is refused is refused to keep the agent alive (a FIFO would block
// it for ever) or the sandbox whole. Errors are the agent's own, see package
// api. It must not know HTTP.
package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hutch-sh/hutch/api"
)

// maxPath is the kernel's limit on a path, in bytes.
const maxPath = 4096

// maxName is the kernel's limit on one component of a path, in bytes.
const maxName = 255

// Resolve makes path absolute, relative to dir, and cleans it by its text: a
// ".." removes the component before it, whatever that is. It refuses what the
// kernel could not take.
func Resolve(path, dir string) (string, error) {
	switch {
	case path == "":
		return "", api.AgentError(api.CodeMissingParameter, "A path is needed")
	case strings.Contains(path, "\x00"):
		return "", api.AgentFileError(api.CodeInvalidPath, "The path holds a NUL byte", strings.ReplaceAll(path, "\x00", "?"), nil)
	case len(path) > maxPath:
		return "", api.AgentFileError(api.CodeInvalidPath, "The path is longer than 4096 bytes", path[:100]+"...", nil)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	path = filepath.Clean(path)
	for c := range strings.SplitSeq(path, "/") {
		if len(c) > maxName {
			return "", api.AgentFileError(api.CodeInvalidPath, "A component of the path is longer than 255 bytes", path[:min(len(path), 300)], nil)
		}
	}
	if len(path) > maxPath {
		return "", api.AgentFileError(api.CodeInvalidPath, "The path is longer than 4096 bytes", path[:100]+"...", nil)
	}
	return path, nil
}

// fault turns a failure of the file system into an answer. None of them is a
// 5xx: clients would repeat it.
func fault(op, path string, err error) error {
	code, why := api.CodeFileOperationFailed, ""
	switch {
	case errors.Is(err, syscall.ENOTDIR) && op == "read", errors.Is(err, fs.ErrNotExist):
		return api.AgentFileError(api.CodeFileNotFound, "File not found: "+path, path, err)
	case errors.Is(err, fs.ErrPermission):
		code, why = api.CodePermissionDenied, "permission denied"
	case errors.Is(err, fs.ErrExist):
		code, why = api.CodeFileAlreadyExists, "it exists already"
	case errors.Is(err, syscall.ENAMETOOLONG):
		code, why = api.CodeInvalidPath, "the name is too long"
	case errors.Is(err, syscall.ELOOP):
		code, why = api.CodeInvalidPath, "symbolic links lead in a circle"
	case errors.Is(err, syscall.ENOTDIR):
		why = "a part of the path is not a directory"
	case errors.Is(err, syscall.EISDIR):
		why = "it is a directory"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		why = "no space left in the sandbox: remove files or use a sandbox with a larger disk"
	case errors.Is(err, syscall.EROFS):
		why = "this part of the file system is read-only"
	case errors.Is(err, syscall.EBUSY):
		why = "it is in use, or something is mounted there"
	default:
		var pe *fs.PathError
		var le *os.LinkError
		switch {
		case errors.As(err, &pe):
			why = pe.Err.Error()
		case errors.As(err, &le):
			why = le.Err.Error()
		default:
			why = err.Error()
		}
	}
	return api.AgentFileError(code, fmt.Sprintf("Cannot %s %s: %s", op, path, why), path, err)
}

// kindError refuses a path that is no regular file.
func kindError(op, path string, mode fs.FileMode) error {
	what := "not a regular file"
	switch {
	case mode.IsDir():
		what = "a directory"
	case mode&fs.ModeNamedPipe != 0:
		what = "a named pipe"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	case mode&fs.ModeDevice != 0:
		what = "a device"
	}
	return api.AgentFileError(api.CodeFileOperationFailed, fmt.Sprintf("Cannot %s %s: it is %s", op, path, what), path, nil)
}

// Open opens a regular file for reading. It never blocks on a FIFO and never
// touches a device, not even when the path is exchanged meanwhile.
func Open(path string) (*os.File, fs.FileInfo, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, nil, fault("read", path, err)
	}
	if !fi.Mode().IsRegular() {
		return nil, nil, kindError("read", path, fi.Mode())
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fault("read", path, err)
	}
	if fi, err = f.Stat(); err == nil && !fi.Mode().IsRegular() {
		err = kindError("read", path, fi.Mode())
	} else if err != nil {
		err = fault("read", path, err)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// Exists reports whether there is something at path, links followed, and
// whether it is a directory.
func Exists(path string) (exists, dir bool) {
	fi, err := os.Stat(path)
	return err == nil, err == nil && fi.IsDir()
}

// Mkdir makes a directory and its parents. One that exists is fine.
func Mkdir(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		if fi, serr := os.Stat(path); serr == nil && !fi.IsDir() {
			err = fs.ErrExist
		}
		return fault("make directory", path, err)
	}
	if mode == DefaultMode {
		return nil
	}
	if err := syscall.Chmod(path, uint32(mode)); err != nil {
		return fault("make directory", path, err)
	}
	return nil
}

// DefaultMode stands for a mode that was not asked for.
const DefaultMode = fs.FileMode(1 << 31)

// ParseMode reads permissions as clients send them, in octal: "0644", "755",
// "0o600". An empty string is [DefaultMode]. The bits are the kernel's, not
// those of package fs.
func ParseMode(s string) (fs.FileMode, error) {
	if s == "" {
		return DefaultMode, nil
	}
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "0o"), "0O")
	var m fs.FileMode
	for _, c := range digits {
		if c < '0' || c > '7' || len(digits) > 6 {
			digits = ""
			break
		}
		m = m<<3 | fs.FileMode(c-'0')
	}
	if digits == "" || m > 0o7777 {
		return 0, api.AgentError(api.CodeInvalidRequest, fmt.Sprintf("mode %.20q is not an octal number between 0 and 07777", s))
	}
	return m, nil
}

// Remove removes path and everything below it, without following links. Guard
// lists directories that must stay, "/" is always one.
func Remove(path string, guard ...string) error {
	// The parent's links are followed by the kernel, so compare where the name
	// really is and not how it is written.
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return fault("remove", path, err)
	}
	target := filepath.Join(parent, filepath.Base(path))
	fi, err := os.Lstat(target)
	if err != nil {
		return fault("remove", path, err)
	}
	for _, g := range append([]string{"/"}, guard...) {
		gi, err := os.Stat(g)
		same := err == nil && os.SameFile(fi, gi)
		if same || target == g || strings.HasPrefix(target, strings.TrimSuffix(g, "/")+"/") && g != "/" {
			return api.AgentFileError(api.CodePathNotAllowed, "Removing "+path+" is not allowed: the sandbox needs it", path, nil)
		}
	}
	if err := os.RemoveAll(target); err != nil {
		return fault("remove", path, err)
	}
	return nil
}
