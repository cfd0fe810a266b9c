package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// errNotFound says that no program of that name is in PATH.
var errNotFound = errors.New("command not found")

// Lookup finds the program that name means to a process with this environment
// and working directory. It is errNotFound or an [fs.ErrPermission] error when
// there is none. The agent's own PATH plays no part.
func Lookup(name, dir string, env []string) (string, error) {
	if name == "" {
		return "", errNotFound
	}
	if strings.Contains(name, "/") {
		return executable(absolute(dir, name))
	}
	denied := false
	for _, p := range filepath.SplitList(value(env, "PATH")) {
		if p == "" {
			p = "."
		}
		found, err := executable(absolute(dir, filepath.Join(p, name)))
		if err == nil {
			return found, nil
		}
		denied = denied || errors.Is(err, fs.ErrPermission)
	}
	if denied {
		return "", fs.ErrPermission
	}
	return "", errNotFound
}

func absolute(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// executable checks that path is a file somebody may execute.
func executable(path string) (string, error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fs.ErrPermission
	case err != nil:
		return "", errNotFound
	case fi.IsDir() || fi.Mode()&0o111 == 0:
		return "", fs.ErrPermission
	}
	return path, nil
}

// value returns the last value of name in env, as the C library finds the only
// one.
func value(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// shellLike reports whether line can only be meant for a shell: one that is a
// single plain word is the name of a program.
func shellLike(line string) bool {
	return strings.ContainsAny(line, " \t\n|&;<>()$`\"'*?[]#~={}!\\")
}
