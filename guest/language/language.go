// Package language knows how source code becomes a process: which interpreter,
// which arguments, which files. It owns the files it makes until they are
// cleaned up. It must not start anything.
package language

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxArgument is how much code is passed as an argument, in bytes. The kernel
// takes 128 KiB for one.
const maxArgument = 96 << 10

// Template is the one of the default templates that has every language.
const Template = "code-interpreter"

// A Plan is how to run one piece of code. Release is owed when it has run, or
// when it is not used.
type Plan struct {
	Language string   // its canonical name
	First    []string // a compiler run that must succeed first; or nil
	Argv     []string
	Stdin    *os.File // the reader's to close; nil: none
	Missing  string   // what to tell the user if the interpreter does not exist
	Release  func()   // removes the files; never nil
}

// interpreters lists what runs each language, best first.
var interpreters = map[string][]string{
	"python":     {"python3", "python"},
	"javascript": {"node", "nodejs"},
	"bash":       {"bash"},
	"sh":         {"sh", "/bin/sh"},
	"go":         {"go", "/usr/local/go/bin/go"},
}

var aliases = map[string]string{
	"": "python", "python": "python", "python3": "python", "py": "python",
	"javascript": "javascript", "js": "javascript", "node": "javascript", "nodejs": "javascript",
	"bash": "bash", "sh": "sh", "shell": "sh",
	"go": "go", "golang": "go",
}

// names are the canonical names in the order they are shown.
var names = []string{"python", "javascript", "bash", "sh", "go"}

// Canonical returns the one name of a language. An empty name is Python's.
func Canonical(name string) (string, bool) {
	l, ok := aliases[strings.ToLower(strings.TrimSpace(name))]
	return l, ok
}

// Names returns the canonical names.
func Names() []string { return slices.Clone(names) }

// Available returns the languages of which has finds an interpreter.
func Available(has func(program string) bool) []string {
	out := []string{}
	for _, n := range names {
		if slices.ContainsFunc(interpreters[n], has) {
			out = append(out, n)
		}
	}
	return out
}

// Prepare plans a run of code in a language given by its canonical name. has
// says whether a program exists; when none does, the plan names the first and
// its run will say so. Files go below dir. An error is the disk's.
func Prepare(lang, code, dir string, has func(program string) bool) (Plan, error) {
	all, ok := interpreters[lang]
	if !ok {
		return Plan{}, fmt.Errorf("unknown language %q", lang)
	}
	p := Plan{
		Language: lang,
		Missing: fmt.Sprintf("This sandbox's template cannot run %s. The template %q can; or install it in this sandbox.",
			lang, Template),
		Release: func() {},
	}
	program := all[0]
	if i := slices.IndexFunc(all, has); i >= 0 {
		program = all[i]
	}
	long := len(code) > maxArgument || strings.Contains(code, "\x00")
	var err error
	switch lang {
	case "python": // -u: what was printed before a timeout is not lost in a buffer
		if p.Argv = []string{program, "-u", "-c", code}; long {
			p.Argv = []string{program, "-u", "-"}
			p.Stdin, err = input(dir, code)
		}
	case "javascript": // as -e, so that require() starts from the working directory
		if p.Argv = []string{program, "-e", code}; long {
			p.Argv = []string{program, "-"}
			p.Stdin, err = input(dir, code)
		}
	case "bash", "sh":
		if p.Argv = []string{program, "-c", code}; long {
			// Not as standard input: commands in the script would read from it.
			var path string
			path, p.Release, err = store(dir, "script.sh", code)
			p.Argv = []string{program, path}
		}
	case "go":
		var path string
		path, p.Release, err = store(dir, "main.go", code)
		binary := filepath.Join(filepath.Dir(path), "main")
		// Not `go run`: it turns every exit code into 1 and adds a line to stderr.
		// Built from where it is run, so that a go.mod there gives its modules.
		p.First = []string{program, "build", "-buildvcs=false", "-o", binary, path}
		p.Argv = []string{binary}
	}
	if err != nil {
		return Plan{}, err
	}
	return p, nil
}

// store writes code to a file of this name in a directory of its own.
func store(dir, name, code string) (path string, release func(), err error) {
	d, err := os.MkdirTemp(dir, "hutch-code-")
	if err != nil {
		return "", nil, err
	}
	release = func() { _ = os.RemoveAll(d) } // in the user's file system; what is left is his
	path = filepath.Join(d, name)
	if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
		release()
		return "", nil, err
	}
	return path, release, nil
}

// input returns code as a file to read from that no longer has a name.
func input(dir, code string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "hutch-code-")
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(code)
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
