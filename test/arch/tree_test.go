package arch

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/hutch-sh/hutch"

// root is the repository, seen from this directory, which is where tests run.
const root = "../.."

// A pkg is one of our packages as `go list` sees it on any system.
type pkg struct {
	place       string // the path below the module; "" is the root package
	imports     []string
	testImports []string
}

// packages lists every package of ours once, with what it imports on Linux and
// on macOS together: a build tag is no way around a wall.
var packages = sync.OnceValues(func() ([]pkg, error) {
	byPlace := map[string]*pkg{}
	for _, system := range []string{"linux", "darwin"} {
		cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", module+"/...")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			return nil, err
		}
		dec := json.NewDecoder(strings.NewReader(string(out)))
		for {
			var l struct {
				ImportPath                         string
				Imports, TestImports, XTestImports []string
			}
			if err := dec.Decode(&l); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, err
			}
			at := place(l.ImportPath)
			p := byPlace[at]
			if p == nil {
				p = &pkg{place: at}
				byPlace[at] = p
			}
			p.imports = append(p.imports, l.Imports...)
			p.testImports = append(append(p.testImports, l.TestImports...), l.XTestImports...)
		}
	}
	var all []pkg
	for _, p := range byPlace {
		all = append(all, pkg{p.place, sorted(p.imports), sorted(p.testImports)})
	}
	slices.SortFunc(all, func(a, b pkg) int { return strings.Compare(a.place, b.place) })
	return all, nil
})

func listed(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Fatalf("go list: %v\n%s", err, failed.Stderr)
		}
		t.Fatal(err)
	}
	return all
}

func sorted(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func place(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

// standard reports whether an import path is Go's own: its first element has no dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// match reports whether a pattern covers a place: "." is the root package,
// "x/..." everything below x, "..." everything, anything else itself.
func match(pattern, at string) bool {
	if pattern == "..." {
		return true
	}
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return strings.HasPrefix(at, above+"/")
	}
	return pattern == at || pattern == "." && at == ""
}

func matchAny(patterns, at string) bool {
	return slices.ContainsFunc(strings.Fields(patterns), func(p string) bool { return match(p, at) })
}

// made lists directories that hold what was fetched or built, not written.
var made = []string{".git", "bin", "node_modules", "testdata"}

// files calls visit for every file that people wrote in this repository.
func files(t *testing.T, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(made, d.Name()) || strings.HasPrefix(d.Name(), ".hutch-data") || at == "internal/payload/files" {
				return filepath.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			visit(at)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
