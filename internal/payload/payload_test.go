package payload_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/hutch-sh/hutch/internal/payload"
)

// packed returns a directory that holds one packed program, and its bytes.
func packed(t *testing.T) (dir string, program []byte) {
	t.Helper()
	program = []byte("#!/bin/sh\n" + strings.Repeat("echo hello\n", 5000))
	src := filepath.Join(t.TempDir(), "greet")
	if err := os.WriteFile(src, program, 0o755); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	changed, err := payload.Pack(dir, "greet", src)
	if err != nil || !changed {
		t.Fatalf("Pack = %v, %v", changed, err)
	}
	if changed, err = payload.Pack(dir, "greet", src); err != nil || changed {
		t.Fatalf("second Pack = %v, %v; want nothing done", changed, err)
	}
	return dir, program
}

func TestUnpack(t *testing.T) {
	dir, program := packed(t)
	p, err := payload.Read(os.DirFS(dir), "greet")
	if err != nil {
		t.Fatal(err)
	}
	if p.Size != int64(len(program)) {
		t.Errorf("Size = %d, want %d", p.Size, len(program))
	}
	bin := filepath.Join(t.TempDir(), "bin")
	var path string
	check := func(what string) {
		t.Helper()
		if path, err = p.Unpack(bin); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, program) {
			t.Fatalf("%s: wrong bytes (%v)", what, err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Fatalf("%s: mode %v (%v)", what, info.Mode(), err)
		}
		entries, err := os.ReadDir(bin)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%s: %d entries left in the directory (%v)", what, len(entries), err)
		}
	}
	check("first")
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	check("second")
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("an intact file was written again")
	}

	damaged := bytes.Clone(program)
	damaged[len(damaged)/2] ^= 1
	for name, spoil := range map[string]func() error{
		"one bit flipped": func() error { return os.WriteFile(path, damaged, 0o755) },
		"cut short":       func() error { return os.Truncate(path, 10) },
		"not executable":  func() error { return os.Chmod(path, 0o600) },
		"a symlink": func() error {
			if err := os.Rename(path, filepath.Join(t.TempDir(), "elsewhere")); err != nil {
				return err
			}
			return os.Symlink("/bin/true", path)
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		check(name)
	}
}

func TestDamagedPayload(t *testing.T) {
	dir, _ := packed(t)
	zst, err := os.ReadFile(filepath.Join(dir, "greet.zst"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(dir, "greet.sum"))
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("0", 64)
	flipped := bytes.Clone(zst)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct{ zst, sum []byte }{
		"wrong digest":  {zst, append([]byte(other), sum[64:]...)},
		"wrong size":    {zst, append(bytes.Clone(sum[:65]), "7\n"...)},
		"no size":       {zst, sum[:64]},
		"no digest":     {zst, []byte("hello 7\n")},
		"negative size": {zst, append(bytes.Clone(sum[:65]), "-7\n"...)},
		"cut short":     {zst[:len(zst)/2], sum},
		"one bit":       {flipped, sum},
		"empty":         {nil, sum},
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			p, err := payload.Read(fstest.MapFS{"greet.zst": {Data: c.zst}, "greet.sum": {Data: c.sum}}, "greet")
			if err == nil {
				_, err = p.Unpack(bin)
			}
			if err == nil {
				t.Error("a damaged payload was unpacked")
			}
			if entries, err := os.ReadDir(bin); err != nil || len(entries) != 0 {
				t.Errorf("%d entries left (%v)", len(entries), err)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	if _, err := payload.Read(fstest.MapFS{}, payload.Agent); !errors.Is(err, payload.ErrMissing) {
		t.Errorf("Read = %v, want ErrMissing", err)
	}
	if _, err := payload.Carried("no-such-program"); !errors.Is(err, payload.ErrMissing) {
		t.Errorf("Carried = %v, want ErrMissing", err)
	}
}
