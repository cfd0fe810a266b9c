package doctor

import (
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestThisMachine looks at the real one, with a port of its own to find.
func TestThisMachine(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := planned
	o.Data = t.TempDir()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		t.Logf("%s %s: %s", f.Level, f.Name, f.Found)
		if f.Name == "" || f.Found == "" || (f.Level == Warn || f.Level == Fail) != (f.Mend != "") {
			t.Errorf("not a whole finding: %+v", f)
		}
	}
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Name == "open ports of the host" })
	port := l.Addr().(*net.TCPAddr).Port
	if want := ":" + strconv.Itoa(port) + " ("; !strings.Contains(r.Findings[i].Found, want) || !strings.Contains(r.Findings[i].Found, "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("found %q, want our own port %d and process %d in it", r.Findings[i].Found, port, os.Getpid())
	}
}

// TestAskNftables asks the kernel, as root: anything but a clean yes or a clean
// refusal is a mistake in the message.
func TestAskNftables(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if err := askNftables(); err != nil {
		t.Errorf("this kernel has nftables, but: %v", err)
	}
}
