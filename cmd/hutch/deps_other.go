//go:build !linux

package main

import "github.com/hutch-sh/hutch/cli"

// deps leaves out all that needs Linux: the server and what acts on its data.
func deps() cli.Deps { return cli.Deps{Version: version, Commit: commit} }
