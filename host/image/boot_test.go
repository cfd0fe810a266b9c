package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestBoot runs a program in the real runtime on an image made here.
func TestBoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the runtime is started by root")
	}
	tmp := t.TempDir()
	probe := filepath.Join(tmp, "probe")
	build(t, probe, "./testdata/probe")
	prog, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}

	hs := []tar.Header{dir("files")}
	body := map[string][]byte{"probe": prog}
	for _, n := range []int{0, 1, 100, 4095, 4096, 4097, 1000000} {
		name := fmt.Sprintf("files/%d", n)
		h := file(name)
		h.Mode, h.Uid, h.Gid, h.ModTime = 0o640, 7, 8, time.Unix(1234567890, 0)
		hs = append(hs, h)
		body[name] = bytes.Repeat([]byte("x"), n)
	}
	run := file("probe")
	run.Mode = 0o755
	hs = append(hs, run, sym("link", "files/100"), hard("hard", "files/100"), dir("many"))
	for i := range 3000 {
		hs = append(hs, file(fmt.Sprintf("many/file-with-a-long-enough-name-%d", i)))
	}
	layer := tarOf(t, hs, body)
	base, host := serve(t, nil)
	(fakeImage{layers: [][]byte{gzipped(layer)}, plain: [][]byte{layer}}).push(t, base, "probe", "x")
	s := open(t, Options{AllowPrivate: true})
	img, err := s.Pull(t.Context(), "probe", host+"/probe:x", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	rootfs, err := s.Rootfs(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if out := boot(t, rootfs, "/probe"); out != "ok\n" {
		t.Errorf("inside: %s", out)
	}
}

// build compiles a program of this module.
func build(t *testing.T, out, pkg string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, b)
	}
}

// boot runs args on an image and returns what was printed.
func boot(t *testing.T, rootfs string, args ...string) string {
	t.Helper()
	tmp := t.TempDir()
	runsc := os.Getenv("HUTCH_RUNSC")
	if runsc == "" {
		runsc = filepath.Join(tmp, "runsc")
		build(t, runsc, "github.com/hutch-sh/hutch/cmd/runsc")
	}
	if err := os.Mkdir(filepath.Join(tmp, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	namespaces := []map[string]string{}
	for _, n := range []string{"pid", "network", "ipc", "uts", "mount"} {
		namespaces = append(namespaces, map[string]string{"type": n})
	}
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.0",
		"process": map[string]any{"user": map[string]int{"uid": 0, "gid": 0}, "args": args, "env": []string{"PATH=/usr/bin:/bin"}, "cwd": "/", "noNewPrivileges": true,
			"capabilities": map[string][]string{"effective": {"CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"}, "permitted": {"CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"}, "bounding": {"CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"}}},
		"root":   map[string]any{"path": filepath.Join(tmp, "root")},
		"mounts": []map[string]string{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":  map[string]any{"namespaces": namespaces},
		"annotations": map[string]string{
			"dev.gvisor.spec.rootfs.source": rootfs, "dev.gvisor.spec.rootfs.type": "erofs", "dev.gvisor.spec.rootfs.overlay": "memory",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tmp, "config.json"), spec, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), runsc, "--root", filepath.Join(tmp, "state"), "--platform=systrap", "--network=none", "--ignore-cgroups",
		"run", "--bundle", tmp, fmt.Sprintf("image-test-%d", os.Getpid()))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("runsc: %v\n%s%s", err, stderr.String(), out)
	}
	return string(out)
}
