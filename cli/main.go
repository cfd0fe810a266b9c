package cli

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"charm.land/fang/v2"
	"github.com/spf13/cobra"
)

// Main runs the command line and returns the exit code. args are without the
// program's name. SIGINT and SIGTERM cancel what runs; a second one ends the
// program the hard way.
func Main(ctx context.Context, args []string, d Deps) int {
	if d.Stdout == nil {
		d.Stdout = os.Stdout
	}
	if d.Stderr == nil {
		d.Stderr = os.Stderr
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot(d)
	root.SetArgs(args)
	root.SetOut(d.Stdout)
	root.SetErr(d.Stderr)
	err := fang.Execute(ctx, root,
		fang.WithVersion(d.Version), fang.WithCommit(d.Commit),
		fang.WithColorSchemeFunc(fang.AnsiColorScheme),
		fang.WithErrorHandler(showError(d.Stderr)))
	return ExitCode(err)
}

func newRoot(d Deps) *cobra.Command {
	root := &cobra.Command{
		Use:   "hutch",
		Short: "Sandboxes for code you do not trust, on a machine of your own",
		Long: `Sandboxes for code you do not trust, on a machine of your own.

A server makes sandboxes in well under a second, runs code in them, and ends
them for certain: when a kill answers, nothing of the sandbox is left.`,
		Example: `# Make the templates, then start the server
hutch template prepare
hutch serve

# End every sandbox, with or without a server
hutch kill --all`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &failure{what: err.Error(), code: ExitUsage}
	})
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return fromEnv(cmd) }
	root.AddGroup(
		&cobra.Group{ID: "server", Title: "server"},
		&cobra.Group{ID: "sandboxes", Title: "sandboxes"},
		&cobra.Group{ID: "data", Title: "keys and templates"},
	)
	root.AddCommand(newServe(d), newDoctor(d), newKill(d), newKey(d), newTemplate(d), newVersion(d))
	return root
}

// newNoun returns a command that only groups others.
func newNoun(use, short, long string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, GroupID: "data",
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(verbs...)
	return c
}

// noSuchCommand turns an argument where a command should stand into an error
// that names the nearest ones.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	f := &failure{what: "there is no command \"" + args[0] + "\" in \"" + cmd.CommandPath() + "\"", code: ExitUsage}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		f.next = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return f
}

// exactly demands that many arguments.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("%s takes %s, but was given %s", cmd.CommandPath(), what, count(len(args), "argument", "arguments"))
		}
		return nil
	}
}
