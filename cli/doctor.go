package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/hutch-sh/hutch/cli/doctor"
)

// tasksPerSandbox is how many processes and threads of the host one sandbox may
// take at its worst: three for each of its 256, and 128 for the runtime.
const tasksPerSandbox = 3*256 + 128

func newDoctor(d Deps) *cobra.Command {
	var o doctor.Options
	var asJSON, net bool
	c := &cobra.Command{
		Use: "doctor", GroupID: "server",
		Short: "Check whether this machine is fit for sandboxes",
		Long: `Check whether this machine is fit for sandboxes, and say how to mend what is
not. Nothing is changed. The exit code is 1 if sandboxes would not work or
would not hold; warnings do not count.`,
		Example: "sudo hutch doctor\nsudo hutch doctor --sandboxes 200 --net\nhutch doctor --json",
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Tasks, o.Links, o.Nftables = tasksPerSandbox, d.Links, d.Nftables
			if s, err := ReadServerFile(o.Data); err == nil {
				o.Listen = strings.TrimSuffix(s.URL, "/")
			}
			if net {
				o.Fetch = []string{
					"http://deb.debian.org/debian/dists/bookworm/Release", "https://pypi.org/simple/pip/",
					"https://registry.npmjs.org/npm", "https://registry-1.docker.io/v2/",
				}
			}
			run := doctor.Run
			if d.Doctor != nil {
				run = d.Doctor
			}
			report, err := run(cmd.Context(), o)
			if err != nil {
				return err
			}
			if asJSON {
				err = writeJSON(d.Stdout, report)
			} else {
				showReport(d, report)
			}
			if err == nil && report.Worst() == doctor.Fail {
				err = &failure{what: "this machine is not fit for sandboxes yet", next: "mend what is marked fail, then run hutch doctor again", code: ExitFailure}
			}
			return err
		},
	}
	dataFlag(c, &o.Data)
	c.Flags().IntVar(&o.Sandboxes, "sandboxes", 32, "how many sandboxes are planned at once")
	c.Flags().BoolVar(&net, "net", false, "also check that packages and images can be fetched")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// showReport prints one line for each finding, and below it how to mend it.
func showReport(d Deps, r doctor.Report) {
	colors := map[doctor.Level]string{doctor.OK: "32", doctor.Warn: "33", doctor.Fail: "31", doctor.Skip: "90"}
	counts := map[doctor.Level]int{}
	for _, f := range r.Findings {
		counts[f.Level]++
		mark := string(f.Level) + strings.Repeat(" ", 4-len(f.Level))
		if colored(d.Stdout) {
			mark = "\x1b[" + colors[f.Level] + "m" + mark + "\x1b[0m"
		}
		printf(d.Stdout, "%s  %s: %s\n", mark, f.Name, f.Found)
		if f.Mend != "" {
			printf(d.Stdout, "        %s\n", f.Mend)
		}
	}
	printf(d.Stdout, "\n%d ok, %d warn, %d fail, %d skipped\n", counts[doctor.OK], counts[doctor.Warn], counts[doctor.Fail], counts[doctor.Skip])
}
