package gvisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

func lockThread() { runtime.LockOSThread() }

// writeTestRoot makes an EROFS image with the directories a cell needs.
func writeTestRoot(path string) error {
	dir := path + ".d"
	for _, d := range []string{"etc", "proc", "sys", "dev", "tmp", ".hutch"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc", "removed"), []byte("x"), 0o644); err != nil {
		return err
	}
	return exec.Command("mkfs.erofs", "-Enoinline_data", path, dir).Run()
}
