package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func newKey(d Deps) *cobra.Command {
	return newNoun("key", "Make, list and revoke API keys",
		"Make, list and revoke the API keys of a server, in its data directory. This works\nbeside a running server and without one.",
		newKeyCreate(d), newKeyList(d), newKeyRevoke(d))
}

// withKeys opens the keys of a data directory, calls use and closes them.
func withKeys(ctx context.Context, d Deps, data string, use func(Keys) error) error {
	if d.OpenKeys == nil {
		return absent("the data directory")
	}
	keys, err := d.OpenKeys(ctx, data)
	if err != nil {
		return err
	}
	return errors.Join(use(keys), keys.Close())
}

func newKeyCreate(d Deps) *cobra.Command {
	var data, life string
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make an API key and print it, this once",
		Long:  "Make an API key and print it. Only its hash is kept: it cannot be shown again.",
		Example: `hutch key create
hutch key create ci --expires 90d
export HOPX_API_KEY=$(hutch key create laptop)`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes one name, not %d", cmd.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "cli"
			if len(args) == 1 {
				name = args[0]
			}
			expires, err := expiry(life, time.Now())
			if err != nil {
				return err
			}
			return withKeys(cmd.Context(), d, data, func(keys Keys) error {
				key, secret, err := keys.Create(cmd.Context(), name, expires)
				if err != nil {
					return err
				}
				line(d.Stdout, secret)
				line(d.Stderr, fmt.Sprintf("key %s %q, expires %s. Keep it: it is not shown again.", key.ID, key.Name, moment(key.Expires, "never")))
				return nil
			})
		},
	}
	dataFlag(c, &data)
	c.Flags().StringVar(&life, "expires", "never", "how long it is valid: never, or like 12h, 30d, 6months, 1year")
	return c
}

func newKeyList(d Deps) *cobra.Command {
	var data string
	var asJSON, revoked bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List API keys",
		Long:    "List API keys. The keys themselves are not kept, so they are not shown.",
		Example: "hutch key list\nhutch key list --json",
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withKeys(cmd.Context(), d, data, func(keys Keys) error {
				all, err := keys.List(cmd.Context())
				if err != nil {
					return err
				}
				shown := []Key{}
				for _, k := range all {
					if revoked || k.Revoked.IsZero() {
						shown = append(shown, k)
					}
				}
				if asJSON {
					return writeJSON(d.Stdout, shown)
				}
				rows := [][]string{{"ID", "NAME", "CREATED", "EXPIRES", "LAST USED"}}
				for _, k := range shown {
					expires := moment(k.Expires, "never")
					if !k.Revoked.IsZero() {
						expires = "revoked"
					}
					rows = append(rows, []string{k.ID, k.Name, moment(k.Created, ""), expires, moment(k.LastUsed, "never")})
				}
				return table(d.Stdout, rows)
			})
		},
	}
	dataFlag(c, &data)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&revoked, "revoked", false, "also those that were revoked")
	return c
}

func newKeyRevoke(d Deps) *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Make an API key worthless, for good",
		Example: "hutch key revoke 3kTq9aZx01Bc",
		Args:    exactly(1, "the id of a key (see hutch key list)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withKeys(cmd.Context(), d, data, func(keys Keys) error {
				// The whole key is what people have at hand; its id stands before the dot.
				id, _, _ := strings.Cut(strings.TrimPrefix(args[0], "hopx_live_"), ".")
				if err := keys.Revoke(cmd.Context(), id); err != nil {
					return err
				}
				line(d.Stdout, id+" revoked")
				return nil
			})
		},
	}
	dataFlag(c, &data)
	return c
}

// expiry reads how long something lives, counted from now: "never", a Go
// duration, or a number of days, weeks, months or years. Zero: for ever.
func expiry(s string, now time.Time) (time.Time, error) {
	bad := usage("--expires is %q; it must be never, or like 12h, 30d, 6months, 1year", s)
	if s == "never" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		if d <= 0 {
			return time.Time{}, bad
		}
		return now.Add(d), nil
	}
	unit := strings.TrimLeft(s, "0123456789")
	n, err := strconv.Atoi(strings.TrimSuffix(s, unit))
	if err != nil || n <= 0 || n > 1000 {
		return time.Time{}, bad
	}
	switch unit {
	case "d", "day", "days":
		return now.AddDate(0, 0, n), nil
	case "w", "week", "weeks":
		return now.AddDate(0, 0, 7*n), nil
	case "month", "months":
		return now.AddDate(0, n, 0), nil
	case "y", "year", "years":
		return now.AddDate(n, 0, 0), nil
	}
	return time.Time{}, bad
}

// moment shows a time to the minute, where the reader is.
func moment(t time.Time, zero string) string {
	if t.IsZero() {
		return zero
	}
	return t.Local().Format("2006-01-02 15:04")
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func table(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		line(tw, strings.Join(r, "\t"))
	}
	return tw.Flush()
}
