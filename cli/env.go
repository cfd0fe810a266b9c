package cli

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envKey marks a flag whose default an environment variable may replace.
const envKey = "hutch_env"

// alsoFromEnv lets HUTCH_<NAME> stand for each named flag that is not given,
// and says so in its help.
func alsoFromEnv(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		f := cmd.Flags().Lookup(name)
		v := "HUTCH_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if f.Annotations == nil {
			f.Annotations = map[string][]string{}
		}
		f.Annotations[envKey] = []string{v}
		f.Usage += " [$" + v + "]"
	}
}

// fromEnv sets the flags of cmd that were not given from their variables.
func fromEnv(cmd *cobra.Command) error {
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || len(f.Annotations[envKey]) == 0 {
			return
		}
		name := f.Annotations[envKey][0]
		if v, ok := os.LookupEnv(name); ok && v != "" {
			if e := f.Value.Set(v); e != nil {
				err = usage("the environment variable %s is not valid: %v", name, e)
			}
		}
	})
	return err
}

// DefaultData is the data directory unless --data or HUTCH_DATA says otherwise.
const DefaultData = "/var/lib/hutch"

// dataFlag adds --data to a command.
func dataFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "data", DefaultData, "directory that holds everything of the server")
	alsoFromEnv(cmd, "data")
}
