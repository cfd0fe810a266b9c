package arch

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// may lists which of our packages a place may import. The first row that covers
// a place counts; a place without a row is an error, so that a new package is
// given its walls when it is made. tests adds what only its tests may import.
var may = []struct{ place, imports, tests string }{
	{place: "."},
	{place: "internal/payload/pack", imports: "internal/payload"},
	{place: "internal/..."},
	{place: "api", imports: "."},
	{place: "api/openapi", imports: "api"},
	{place: "control/store", imports: ". internal/..."},
	{place: "control/lifecycle", imports: ". control/store internal/..."},
	{place: "control", imports: ". api api/openapi control/... internal/..."},
	{place: "host/driver", imports: "."},
	{place: "host/hosttest", imports: ". host host/network internal/..."},
	{place: "host/driver/drivertest", imports: ". host/driver internal/..."},
	{place: "host/driver/...", imports: ". host/driver internal/...", tests: "host/driver/drivertest"},
	{place: "host/image", imports: ". internal/..."},
	{place: "host/network", imports: ". internal/..."},
	{place: "host", imports: ". host/... internal/..."},
	{place: "guest/...", imports: "api internal/..."},
	{place: "guest", imports: "api guest/... internal/..."},
	{place: "gateway", imports: ". api internal/..."},
	{place: "cluster", imports: ". internal/..."},
	{place: "client", imports: "api"},
	{place: "cli/...", imports: "internal/..."},
	{place: "cli", imports: "api client cli/... internal/..."},
	{place: "cmd/runsc"},
	{place: "cmd/hutch-agent", imports: "guest internal/...", tests: "api"},
	{place: "cmd/hutch", imports: "..."},
	{place: "test/...", imports: "..."},
}

// TestImports holds every package to its row.
func TestImports(t *testing.T) {
	for _, p := range listed(t) {
		i := slices.IndexFunc(may, func(r struct{ place, imports, tests string }) bool { return match(r.place, p.place) })
		if i < 0 {
			t.Errorf("%s has no row in this test: say what it may import", p.place)
			continue
		}
		for _, path := range p.imports {
			if ours(path) && !matchAny(may[i].imports, place(path)) {
				t.Errorf("%s must not import %s", p.place, place(path))
			}
		}
		for _, path := range p.testImports {
			if ours(path) && path != module+"/"+p.place && path != module && !matchAny(may[i].imports+" "+may[i].tests, place(path)) {
				t.Errorf("tests of %s must not import %s", p.place, place(path))
			}
		}
	}
}

// owners lists which places may import a third-party module, so that replacing
// one is the work of one package. A module without a row is an error.
var owners = []struct{ module, places string }{
	{"gvisor.dev/gvisor", "cmd/runsc host/driver/gvisor"},
	{"github.com/google/subcommands", "cmd/runsc"},
	{"github.com/opencontainers/runtime-spec", "host/driver/gvisor"},
	{"github.com/vishvananda/netlink", "host/network"},
	{"github.com/vishvananda/netns", "host/network"},
	{"github.com/google/nftables", "host/network"},
	{"github.com/google/go-containerregistry", "host/image"},
	{"github.com/erofs/go-erofs", "host/image"},
	{"modernc.org/sqlite", "control/store"},
	{"github.com/pressly/goose", "control/store"},
	{"github.com/golang-jwt/jwt", "internal/token"},
	{"github.com/spf13/cobra", "cli cmd/hutch"},
	{"github.com/spf13/pflag", "cli cmd/hutch"},
	{"charm.land/fang", "cli cmd/hutch"},
	{"charm.land/lipgloss", "cli cmd/hutch"},
	{"github.com/mattn/go-isatty", "cli cmd/hutch"},
	{"github.com/lmittmann/tint", "cmd/hutch"},
	{"github.com/prometheus/client_golang", "cmd/hutch"},
	{"github.com/coder/websocket", "gateway guest guest/..."},
	{"github.com/creack/pty", "guest/terminal"},
	{"github.com/fsnotify/fsnotify", "guest/file"},
	{"github.com/shirou/gopsutil", "guest guest/..."},
	{"github.com/klauspost/compress", "host/image internal/payload"},
	{"go.yaml.in/yaml", "api/openapi"},
	{"github.com/swaggest/swgui", "control"},
	{"golang.org/x/mod", "host/image"},
	{"golang.org/x/net", "host/image"},
	{"golang.org/x/sys", "..."},
	{"golang.org/x/sync", "..."},
	{"golang.org/x/time", "..."},
}

// helpers are modules that any test may use and no program may.
var helpers = []string{
	"github.com/getkin/kin-openapi", "github.com/google/go-cmp", "github.com/rogpeppe/go-internal",
	"github.com/santhosh-tekuri/jsonschema",
	"go.uber.org/goleak", "pgregory.net/rapid",
}

// TestOwners holds third-party modules to their owners. Tests of one package
// may reach for another's module (a gateway test dials a WebSocket), and
// everything below test/ for any.
func TestOwners(t *testing.T) {
	within := func(path, mod string) bool { return path == mod || strings.HasPrefix(path, mod+"/") }
	for _, p := range listed(t) {
		if match("test/...", p.place) {
			continue
		}
		for _, path := range p.imports {
			if standard(path) || ours(path) {
				continue
			}
			i := slices.IndexFunc(owners, func(o struct{ module, places string }) bool { return within(path, o.module) })
			switch {
			case i < 0:
				t.Errorf("%s imports %s, which has no owner in this test", p.place, path)
			case !matchAny(owners[i].places, p.place):
				t.Errorf("%s imports %s, which belongs to %s", p.place, path, owners[i].places)
			}
		}
		for _, path := range p.testImports {
			known := slices.ContainsFunc(owners, func(o struct{ module, places string }) bool { return within(path, o.module) }) ||
				slices.ContainsFunc(helpers, func(mod string) bool { return within(path, mod) })
			if !standard(path) && !ours(path) && !known {
				t.Errorf("tests of %s import %s, which is neither owned nor a test helper", p.place, path)
			}
		}
	}
}

// TestLinked checks what a binary or library must never contain, however far
// down it would come in.
func TestLinked(t *testing.T) {
	for _, c := range []struct{ place, never string }{
		// Whatever is linked into the runtime lives in every sandbox's sentry.
		{"cmd/runsc", "..."},
		{"cmd/hutch-agent", "control control/... host host/... gateway cluster client cli cli/... cmd/..."},
		{"client", "control control/... host host/... guest guest/... gateway cluster cli cli/... internal/... cmd/..."},
		{"cli", "control control/... host host/... guest guest/... gateway cluster cmd/..."},
		{"control", "host host/... guest guest/... gateway cluster cli cli/... client"},
		{"host", "control control/... guest guest/... gateway cluster cli cli/... client api"},
		{"guest", "control control/... host host/... gateway cluster cli cli/... client"},
		{"gateway", "control control/... host host/... guest guest/... cluster cli cli/... client"},
	} {
		if !slices.ContainsFunc(listed(t), func(p pkg) bool { return p.place == c.place }) {
			continue
		}
		cmd := exec.Command("go", "list", "-deps", module+"/"+c.place)
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", c.place, err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			if ours(dep) && place(dep) != c.place && matchAny(c.never, place(dep)) {
				t.Errorf("%s contains %s", c.place, place(dep))
			}
		}
	}
}

// TestForeignInSentry checks that the runtime holds gVisor and what gVisor
// needs, and nothing that another part of this project brought into go.mod.
func TestForeignInSentry(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", module+"/cmd/runsc")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		for _, bad := range []string{"net/http/pprof", "database/sql", "modernc.org", "github.com/spf13", "charm.land", "github.com/coder", "github.com/prometheus"} {
			if dep == bad || strings.HasPrefix(dep, bad+"/") {
				t.Errorf("cmd/runsc contains %s", dep)
			}
		}
	}
}
