package image

import (
	"context"
	"fmt"
	"io"
	"os"
)

// helper runs this test program as another program, for tests that kill one.
// It reports whether it did.
func helper() bool {
	switch os.Getenv("HUTCH_IMAGE_HELPER") {
	case "build":
		// A build that mounts something and leaves processes of all kinds.
		err := runPrivate(context.Background(), os.Stdout, `
			set -eu
			mount --make-rprivate /
			mount -t tmpfs tmpfs "$1"
			touch "$1/inside"
			setsid sh -c 'trap "" TERM HUP INT; while :; do sleep "$0"; done' "$2" &
			sleep "$2" &
			echo started
			wait
		`, "test", os.Getenv("HUTCH_IMAGE_DIR"), os.Getenv("HUTCH_IMAGE_MARK"))
		fmt.Fprintln(os.Stderr, err)
	case "step":
		// A preparation whose second step never ends.
		s, err := Open(os.Getenv("HUTCH_IMAGE_DIR"), Options{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		unlock, err := s.lockBuild(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer unlock()
		p := &preparation{s: s, rep: newReporter(nil, "x", 2)}
		_, err = p.step(context.Background(), "first-1", "first", func(_ context.Context, dir string) error {
			return os.WriteFile(dir+"/done", []byte("1"), 0o600)
		})
		if err == nil {
			_, err = p.step(context.Background(), "second-1", "second", func(_ context.Context, dir string) error {
				if err := os.WriteFile(dir+"/half", []byte("1"), 0o600); err != nil {
					return err
				}
				fmt.Println("started")
				// Until the test kills this process, or has died itself.
				_, err := io.Copy(io.Discard, os.Stdin)
				return err
			})
		}
		fmt.Fprintln(os.Stderr, err)
	default:
		return false
	}
	return true
}
