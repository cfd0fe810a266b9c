// Hutch is the sandbox cloud in one program: the command line everywhere, and
// on Linux the server with everything it needs inside.
package main

import (
	"context"
	"os"

	"github.com/hutch-sh/hutch/cli"
)

// Stamped by the build.
var (
	version       = "dev"
	commit        = "unknown"
	gvisorVersion = "unknown" // of the module that the carried runsc was built from
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], deps()))
}
