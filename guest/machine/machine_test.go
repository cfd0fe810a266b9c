package machine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	ca1 = "-----BEGIN CERTIFICATE-----\none\n-----END CERTIFICATE-----\n"
	ca2 = "-----BEGIN CERTIFICATE-----\ntwo\n-----END CERTIFICATE-----"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func apply(t *testing.T, root string, s Settings) {
	t.Helper()
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	if errs := Apply(root, s); len(errs) > 0 {
		t.Fatal(errs)
	}
}

func TestApply(t *testing.T) {
	root := t.TempDir()
	s := Settings{Hostname: "box.example", DNS: []string{"10.0.0.1", "fd00::1"}, Seed: []byte("seed"), Dirs: []string{"/workspace", "/a/b"}}
	for range 2 {
		apply(t, root, s)
		if got := read(t, root+"/etc/hostname"); got != "box.example\n" {
			t.Errorf("%q", got)
		}
		if got := read(t, root+"/etc/hosts"); got != "127.0.0.1\tlocalhost\n127.0.1.1\tbox.example box\n" {
			t.Errorf("%q", got)
		}
		if got := read(t, root+"/etc/resolv.conf"); got != "nameserver 10.0.0.1\nnameserver fd00::1\noptions timeout:2 attempts:2\n" {
			t.Errorf("%q", got)
		}
	}
	id := read(t, root+"/etc/machine-id")
	if len(id) != 33 || strings.Trim(id, "0123456789abcdef\n") != "" {
		t.Errorf("%q", id)
	}
	for _, d := range s.Dirs {
		if fi, err := os.Stat(root + d); err != nil || !fi.IsDir() {
			t.Errorf("%s: %v", d, err)
		}
	}
	// A restore: another identity.
	apply(t, root, Settings{Hostname: "other", Seed: []byte("other seed")})
	if got := read(t, root+"/etc/resolv.conf"); strings.Contains(got, "nameserver") {
		t.Errorf("%q", got)
	}
	if read(t, root+"/etc/machine-id") == id {
		t.Error("the machine id stayed")
	}
	apply(t, root, Settings{Hostname: "other"})
	first := read(t, root+"/etc/machine-id")
	apply(t, root, Settings{Hostname: "other"})
	if read(t, root+"/etc/machine-id") == first {
		t.Error("two guests without a seed have one machine id")
	}
	left, err := filepath.Glob(root + "/etc/.hutch*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind %v, %v", left, err)
	}
}

func TestHostileRoot(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.WriteFile(outside+"/victim", []byte("precious"), 0o644),
		os.MkdirAll(root+"/etc/ssl/certs", 0o755),
		os.Symlink(outside+"/victim", root+"/etc/hosts"),
		os.Symlink("../run/systemd/resolve/stub-resolv.conf", root+"/etc/resolv.conf"),
		syscall.Mkfifo(root+"/etc/machine-id", 0o600),
		syscall.Mkfifo(root+Bundle, 0o600),
		os.MkdirAll(root+"/etc/hostname/x", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	errs := Apply(root, Settings{Hostname: "box", DNS: []string{"10.0.0.1"}, ExtraCA: ca1})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "hostname") {
		t.Errorf("%v", errs)
	}
	if read(t, outside+"/victim") != "precious" {
		t.Error("a link was followed")
	}
	if !strings.Contains(read(t, root+"/etc/resolv.conf"), "10.0.0.1") || !strings.Contains(read(t, root+"/etc/hosts"), "box") {
		t.Error("not written")
	}
}

func TestTrust(t *testing.T) {
	root := t.TempDir()
	apply(t, root, Settings{Hostname: "box"})
	if _, err := os.Stat(root + Bundle); err == nil {
		t.Error("a bundle out of nothing")
	}
	if err := os.MkdirAll(filepath.Dir(root+Bundle), 0o755); err != nil {
		t.Fatal(err)
	}
	const own = "-----BEGIN CERTIFICATE-----\nown\n-----END CERTIFICATE-----"
	if err := os.WriteFile(root+Bundle, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		apply(t, root, Settings{Hostname: "box", ExtraCA: ca1})
	}
	if got := read(t, root+Bundle); got != own+"\n"+bundleBegin+ca1+bundleEnd {
		t.Errorf("%q", got)
	}
	apply(t, root, Settings{Hostname: "box", ExtraCA: ca2})
	if got := read(t, root+Bundle); got != own+"\n"+bundleBegin+ca2+"\n"+bundleEnd || read(t, root+Extra) != ca2+"\n" {
		t.Errorf("%q", got)
	}
	apply(t, root, Settings{Hostname: "box"})
	if got := read(t, root+Bundle); got != own+"\n" {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(root + Extra); err == nil {
		t.Error("the extra file stayed")
	}
	for k, v := range TrustEnv() {
		if v != Bundle && v != Extra {
			t.Errorf("%s=%s", k, v)
		}
	}

	other := t.TempDir()
	if err := os.MkdirAll(other+"/etc/pki/tls/certs", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other+"/etc/pki/tls/certs/ca-bundle.crt", []byte("redhat\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	apply(t, other, Settings{Hostname: "box", ExtraCA: ca1})
	if got := read(t, other+Bundle); !strings.HasPrefix(got, "redhat\n") {
		t.Errorf("%q", got)
	}
}

func TestCheck(t *testing.T) {
	for _, s := range []Settings{
		{}, {Hostname: "a b"}, {Hostname: "a\n10.0.0.1 evil"}, {Hostname: "-a"}, {Hostname: strings.Repeat("a", 65)},
		{Hostname: "a", DNS: []string{"dns.example"}}, {Hostname: "a", DNS: []string{"10.0.0.1\noptions x"}}, {Hostname: "a", DNS: []string{"fe80::1%eth0"}},
		{Hostname: "a", ExtraCA: "no pem"}, {Hostname: "a", ExtraCA: ca1 + bundleEnd}, {Hostname: "a", Dirs: []string{"relative"}},
	} {
		if err := s.Check(); err == nil {
			t.Errorf("%+v is fine?", s)
		}
	}
}

func FuzzUnmark(f *testing.F) {
	f.Add("a" + bundleBegin + "b" + bundleEnd + "c")
	f.Add(bundleBegin + bundleBegin)
	f.Add(bundleEnd + bundleBegin)
	f.Fuzz(func(t *testing.T, s string) {
		if got := unmark([]byte(s)); strings.Contains(string(got), bundleBegin) {
			t.Errorf("%q: %q", s, got)
		}
	})
}
