// Runsc is gVisor's runtime cut down to the commands a host drives, built
// from gVisor's own module with nothing of ours linked in.
//
// It is a program of its own, embedded in hutch and unpacked at start, because
// it re-executes itself as the sentry: every package linked into it lives in
// every sandbox, and an init function that opens a file or starts a timer
// there dies on the sentry's seccomp filter. Keep this file free of any other
// import.
package main

import (
	"github.com/google/subcommands"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"
)

func main() {
	// The driver uses run, pause, resume, tar and (in time) checkpoint and
	// restore. Boot, gofer and umount are the programs runsc re-executes
	// itself as. Delete, exec, kill, list, state and wait are for operators.
	commands := map[util.SubCommand]string{
		new(cmd.Checkpoint):   "",
		new(cmd.Create):       "",
		new(cmd.Delete):       "",
		new(cmd.Exec):         "",
		new(cmd.Kill):         "",
		new(cmd.List):         "",
		new(cmd.PS):           "",
		new(cmd.Pause):        "",
		new(cmd.Restore):      "",
		new(cmd.Resume):       "",
		new(cmd.Run):          "",
		new(cmd.Start):        "",
		new(cmd.State):        "",
		new(cmd.Tar):          "",
		new(cmd.Wait):         "",
		new(sentrycmd.Boot):   "",
		new(cmd.Gofer):        "",
		new(sentrycmd.Umount): "",
	}
	cli.Run(nil, commands, []subcommands.Command{})
}
