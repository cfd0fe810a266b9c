package cli

import (
	"runtime"

	"github.com/spf13/cobra"
)

func newVersion(d Deps) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", GroupID: "server",
		Short:   "Say which hutch this is, and which gVisor it carries",
		Example: "hutch version\nhutch version --json",
		Args:    exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit"`
				Runtime string `json:"gvisor"`
				Go      string `json:"go"`
				System  string `json:"system"`
			}{d.Version, d.Commit, d.Runtime, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if asJSON {
				return writeJSON(d.Stdout, v)
			}
			return table(d.Stdout, [][]string{
				{"hutch", v.Version}, {"commit", v.Commit}, {"gVisor", v.Runtime}, {"Go", v.Go}, {"system", v.System},
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
