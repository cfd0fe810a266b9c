// Command probe runs inside a sandbox as its only program and says what it
// finds wrong with the root filesystem. It prints "ok" and nothing else if all
// is as the test made it.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

func main() {
	if len(os.Args) > 1 { // run once more, by itself
		fmt.Print("child")
		return
	}
	bad := 0
	check := func(what string, ok bool, detail ...any) {
		if !ok {
			bad++
			fmt.Println(append([]any{"wrong:", what}, detail...)...)
		}
	}
	for size, want := range map[string]int{"0": 0, "1": 1, "100": 100, "4095": 4095, "4096": 4096, "4097": 4097, "1000000": 1000000} {
		name := "/files/" + size
		b, err := os.ReadFile(name)
		check("read "+name, err == nil && len(b) == want && bytes.Count(b, []byte("x")) == want, err, len(b))
		if want == 0 {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			check("open "+name, false, err)
			continue
		}
		// The trap that made us write the images ourselves: a small file that
		// is mapped.
		m, err := syscall.Mmap(int(f.Fd()), 0, want, syscall.PROT_READ, syscall.MAP_PRIVATE)
		check("map "+name, err == nil && bytes.Count(m, []byte("x")) == want, err)
		f.Close()
	}
	to, err := os.Readlink("/link")
	check("read link", err == nil && to == "files/100", to, err)
	b, err := os.ReadFile("/link")
	check("follow link", err == nil && len(b) == 100, err)
	var a, c syscall.Stat_t
	check("stat", syscall.Stat("/files/100", &a) == nil && syscall.Stat("/hard", &c) == nil)
	check("hard link", a.Ino == c.Ino && a.Nlink == 2, a.Ino, c.Ino, a.Nlink)
	check("owner, mode and time", c.Uid == 7 && c.Gid == 8 && c.Mode&0o7777 == 0o640 && c.Mtim.Sec == 1234567890, c.Uid, c.Gid, c.Mode, c.Mtim.Sec)
	ents, err := os.ReadDir("/many")
	check("large directory", err == nil && len(ents) == 3000, len(ents), err)
	_, err = os.Lstat("/many/file-with-a-long-enough-name-2999")
	check("look up in a large directory", err == nil, err)
	out, err := exec.Command("/proc/self/exe", "again").Output()
	check("run a program", err == nil && string(out) == "child", string(out), err)
	check("write", os.WriteFile("/workspace/x", []byte("y"), 0o644) == nil)
	check("write over", os.WriteFile("/hard", []byte("new"), 0o644) == nil)
	check("rename", os.Rename("/many", "/workspace/many") == nil || true) // directories of a lower layer may refuse
	check("make a directory", os.Mkdir("/files/new", 0o755) == nil)
	for _, d := range []string{"/.hutch", "/proc", "/sys", "/dev", "/tmp", "/workspace", "/etc"} {
		st, err := os.Lstat(d)
		check(d, err == nil && st.IsDir(), err)
	}
	if bad == 0 {
		fmt.Println("ok")
	}
}
