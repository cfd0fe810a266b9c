// Pack compresses executables into the directory that hutch embeds:
//
//	pack DIR PROGRAM...
//
// It is run by `make build` and needs nothing but Go.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hutch-sh/hutch/internal/payload"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: pack DIR PROGRAM...")
		os.Exit(2)
	}
	for _, path := range os.Args[2:] {
		changed, err := payload.Pack(os.Args[1], filepath.Base(path), path)
		if err != nil {
			fmt.Fprintf(os.Stderr, "pack %s: %v\n", path, err)
			os.Exit(1)
		}
		if changed {
			fmt.Printf("packed %s\n", filepath.Base(path))
		}
	}
}
