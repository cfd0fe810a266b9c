// Hutch-agent is the program inside every sandbox: process 1, and the agent
// that process 1 keeps alive.
package main

import (
	"os"

	"github.com/hutch-sh/hutch/guest"
)

func main() { os.Exit(guest.Main(os.Args)) }
