package installation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/hutch-sh/hutch/test/e2e/ledger"
)

// A Test is what Need wants of a testing.T.
type Test interface {
	Helper()
	Skip(args ...any)
	Fatal(args ...any)
}

// Need skips a test that cannot run here, with the reason. Where EnvRequire is
// set nothing may be skipped, and the test fails instead.
func Need(t Test, missing string) {
	t.Helper()
	switch {
	case missing == "":
	case os.Getenv(EnvRequire) != "":
		t.Fatal("cannot run here: " + missing)
	default:
		t.Skip("SKIP: " + missing)
	}
}

// Missing says why no installation can run here, or "".
func Missing() string {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return "sandboxes need Linux and root"
	}
	if _, err := Binary(); err != nil {
		return err.Error()
	}
	if _, err := Prepared(); err != nil {
		return err.Error()
	}
	return ""
}

// Binary is the program under test.
func Binary() (string, error) {
	path := os.Getenv(EnvBinary)
	if path == "" {
		root, err := repository()
		if err != nil {
			return "", err
		}
		path = filepath.Join(root, "bin", "hutch")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("there is no program to test: run `make build`, or set %s (%w)", EnvBinary, err)
	}
	return path, nil
}

// repository is the directory above this package that holds go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("this is not run inside the repository")
		}
		dir = filepath.Dir(dir)
	}
}

// images is where a data directory keeps prepared templates: two files for each.
const images = "images"

// Prepared is a data directory with the default templates ready: the one that
// EnvData names, or that of `make run`, or the default of `hutch serve`.
func Prepared() (string, error) {
	var tried []string
	candidates := []string{os.Getenv(EnvData)}
	if candidates[0] == "" {
		root, err := repository()
		if err != nil {
			return "", err
		}
		candidates = []string{filepath.Join(root, ".hutch-data"), "/var/lib/hutch"}
	}
	for _, dir := range candidates {
		found, err := filepath.Glob(filepath.Join(dir, images, "*.erofs"))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return dir, nil
		}
		tried = append(tried, dir)
	}
	return "", fmt.Errorf("no templates are prepared in %s: run `bin/hutch template prepare --data DIR` and set %s=DIR",
		strings.Join(tried, " or "), EnvData)
}

// lay makes the data directory and puts the prepared templates into it, without
// copying their gigabytes where the file system allows.
func (i *Installation) lay(prepared string) error {
	to := filepath.Join(i.Data, images)
	for _, dir := range []string{to, i.temp()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	from := filepath.Join(prepared, images)
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasSuffix(e.Name(), ".tmp") {
			continue // what is needed to make more templates is not needed here
		}
		if err := os.Link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			// Another file system: use the directory itself.
			return errors.Join(os.RemoveAll(to), os.Symlink(from, to))
		}
	}
	return nil
}

// tagFile is where an installation keeps the tag that its kernel objects carry.
const tagFile = "tag"

// Tag is the installation's own mark, "" before its first start.
func (i *Installation) Tag() string {
	data, err := os.ReadFile(filepath.Join(i.Data, tagFile))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(data))
}

// readSubnet is where the sandboxes' addresses come from.
func (i *Installation) readSubnet() (netip.Prefix, error) {
	data, err := os.ReadFile(filepath.Join(i.Data, "network", "network.json"))
	if err != nil {
		return netip.Prefix{}, err
	}
	var state struct{ Subnet netip.Prefix }
	err = json.Unmarshal(data, &state)
	return state.Subnet, err
}

// Scope is what belongs to the installation now.
func (i *Installation) Scope() ledger.Scope {
	tag := i.Tag()
	s := ledger.Scope{
		Marks:  []string{i.Data},
		Dirs:   []string{i.Data, i.temp()},
		Server: i.PID(),
		Debug:  "http://" + i.debug + "/debug/pprof/goroutine?debug=1",
		ListAll: func(ctx context.Context) ([]string, error) {
			return i.Caller().List(ctx, "")
		},
	}
	if i.subnet.IsValid() {
		s.Nets = []netip.Prefix{i.subnet}
	}
	if tag != "" {
		s.Marks = append(s.Marks, "hutch-"+tag, "hutch_"+tag)
		s.Links = []string{"hx" + tag + "-"}
		s.Dirs = append(s.Dirs, "/run/hutch-"+tag)
	}
	return s
}

// Cgroups returns the cgroups of a sandbox, one for each hierarchy.
func (i *Installation) Cgroups(id string) ([]string, error) {
	v1, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", "*", "hutch-"+i.Tag(), id))
	if err != nil {
		return nil, err
	}
	v2, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", "hutch-"+i.Tag(), id))
	return append(v1, v2...), err
}

// Processes returns the host's processes of a sandbox.
func (i *Installation) Processes(id string) ([]int, error) {
	dirs, err := i.Cgroups(id)
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	for _, dir := range dirs {
		found, err := pidsIn(dir)
		if err != nil {
			return nil, err
		}
		for _, pid := range found {
			seen[pid] = true
		}
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	return pids, nil
}

// pidsIn reads the processes of one cgroup; one that is gone has none.
func pidsIn(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(data)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
