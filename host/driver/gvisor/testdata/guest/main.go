// Guest is the first process of the driver's test cells.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

func main() {
	mode := "sleep"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "sleep":
		fmt.Println("ready")
	case "mute": // never ready
	case "exit":
		fmt.Println("something went wrong inside")
		os.Exit(3)
	case "end": // ready, then over
		fmt.Println("ready")
		time.Sleep(50 * time.Millisecond)
		return
	case "hog": // takes memory until it is stopped
		fmt.Println("ready")
		for var1 := [][]byte{}; ; {
			b := make([]byte, 8<<20)
			for i := range b {
				b[i] = byte(i)
			}
			var1 = append(var1, b)
		}
	case "bomb": // forks until it may not, and again
		fmt.Println("ready")
		for {
			_ = exec.Command(os.Args[0], "spin").Start()
		}
	case "spin":
		fmt.Println("ready")
		for {
		}
	case "fill": // writes until its disk of 64 MiB is full, and a little after
		f, err := os.Create("/big")
		n := 0
		for b := make([]byte, 1<<20); err == nil && n < 200; n++ {
			_, err = f.Write(b)
		}
		fmt.Println("full after", n, err)
		if errors.Is(err, syscall.ENOSPC) && n >= 56 && n <= 65 {
			fmt.Println("ready")
		}
	case "write": // writes to its disk, and says what an earlier life wrote
		old, err := os.ReadFile("/kept/file")
		fmt.Printf("found %d %v\n", len(old), os.IsNotExist(err))
		if err := os.MkdirAll("/kept", 0o755); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := os.WriteFile("/kept/file", []byte(strings.Repeat("x", len(old)+1000)), 0o644); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = os.Remove("/etc/removed")
		if _, err := os.Stat("/etc/removed"); err == nil {
			fmt.Println("a removed file is back")
			os.Exit(1)
		}
		fmt.Println("ready")
	}
	for {
		time.Sleep(time.Hour)
	}
}
