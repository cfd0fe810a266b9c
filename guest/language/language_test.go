package language

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"": "python", "python": "python", "python3": "python", "Python": "python", " py ": "python",
		"javascript": "javascript", "js": "javascript", "node": "javascript", "nodejs": "javascript",
		"bash": "bash", "sh": "sh", "shell": "sh", "go": "go",
	} {
		if got, ok := Canonical(in); !ok || got != want {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
	if _, ok := Canonical("cobol"); ok {
		t.Error("cobol")
	}
}

func TestPrepare(t *testing.T) {
	long := strings.Repeat("# padding\n", 20<<10)
	for _, tt := range []struct {
		lang, code string
		has        []string
		argv       []string // "" matches anything
		stdin      bool
		files      int
	}{
		{"python", "print(1)", []string{"python3", "python"}, []string{"python3", "-u", "-c", "print(1)"}, false, 0},
		{"python", "print(1)", []string{"python"}, []string{"python", "-u", "-c", "print(1)"}, false, 0},
		{"python", "print(1)", nil, []string{"python3", "-u", "-c", "print(1)"}, false, 0},
		{"python", long, []string{"python3"}, []string{"python3", "-u", "-"}, true, 0},
		{"python", "a\x00b", []string{"python3"}, []string{"python3", "-u", "-"}, true, 0},
		{"javascript", "1", []string{"nodejs"}, []string{"nodejs", "-e", "1"}, false, 0},
		{"javascript", long, []string{"node"}, []string{"node", "-"}, true, 0},
		{"bash", "ls", []string{"bash"}, []string{"bash", "-c", "ls"}, false, 0},
		{"bash", long, []string{"bash"}, []string{"bash", ""}, false, 1},
		{"sh", "ls", nil, []string{"sh", "-c", "ls"}, false, 0},
		{"go", "package main", []string{"go"}, []string{""}, false, 1},
		{"go", "package main", []string{"/usr/local/go/bin/go"}, []string{""}, false, 1},
	} {
		dir := t.TempDir()
		p, err := Prepare(tt.lang, tt.code, dir, func(s string) bool { return slices.Contains(tt.has, s) })
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Argv) != len(tt.argv) {
			t.Fatalf("%s: %q", tt.lang, p.Argv)
		}
		for i, a := range tt.argv {
			if a != "" && p.Argv[i] != a {
				t.Errorf("%s: %.40q", tt.lang, p.Argv)
			}
		}
		if !strings.Contains(p.Missing, Template) {
			t.Errorf("%s: %q", tt.lang, p.Missing)
		}
		if tt.lang == "go" && (p.First == nil || len(tt.has) > 0 && p.First[0] != tt.has[0]) {
			t.Errorf("go: %q", p.First)
		}
		if (p.Stdin != nil) != tt.stdin {
			t.Errorf("%s: stdin %v", tt.lang, p.Stdin)
		}
		if p.Stdin != nil {
			if b, err := io.ReadAll(p.Stdin); err != nil || string(b) != tt.code {
				t.Errorf("%s: stdin holds %d bytes, %v", tt.lang, len(b), err)
			}
			p.Stdin.Close()
		}
		found, err := filepath.Glob(dir + "/*/*")
		if err != nil || len(found) != tt.files {
			t.Fatalf("%s: files %v, %v", tt.lang, found, err)
		}
		for _, f := range found {
			if b, err := os.ReadFile(f); err != nil || string(b) != tt.code {
				t.Errorf("%s: %v", f, err)
			}
		}
		p.Release()
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left behind %v", tt.lang, left)
		}
	}
	if _, err := Prepare("cobol", "", t.TempDir(), func(string) bool { return true }); err == nil {
		t.Error("cobol")
	}
	if _, err := Prepare("go", "", "/no/such/dir", func(string) bool { return true }); err == nil {
		t.Error("no directory")
	}
}

func TestAvailable(t *testing.T) {
	got := Available(func(s string) bool { return s == "python" || s == "/bin/sh" })
	if !slices.Equal(got, []string{"python", "sh"}) {
		t.Error(got)
	}
	if got := Available(func(string) bool { return false }); got == nil || len(got) != 0 {
		t.Error(got)
	}
}
