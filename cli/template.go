package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

func newTemplate(d Deps) *cobra.Command {
	return newNoun("template", "Make and list templates",
		"Make and list templates: the root filesystems that sandboxes start from. Each is\nmade once and shared read-only by every sandbox.",
		newTemplatePrepare(d), newTemplatePull(d), newTemplateList(d))
}

// templates are the flags that all verbs share.
type templates struct {
	data string
	src  Sources
}

func (t *templates) flags(c *cobra.Command, making bool) {
	dataFlag(c, &t.data)
	if making {
		c.Flags().StringVar(&t.src.ExtraCA, "extra-ca", "", "file with certificates to trust beside the system's")
		alsoFromEnv(c, "extra-ca")
	}
}

func (t *templates) with(ctx context.Context, d Deps, use func(Templates) error) error {
	if d.OpenTemplates == nil {
		return absent("the making of templates")
	}
	open, err := d.OpenTemplates(ctx, t.data, t.src)
	if err != nil {
		return err
	}
	return errors.Join(use(open), open.Close())
}

func newTemplatePrepare(d Deps) *cobra.Command {
	var t templates
	c := &cobra.Command{
		Use:   "prepare [NAME...]",
		Short: "Make the default templates",
		Long: `Make the default templates, or only those named. What is there already is left
as it is. This may be interrupted: the next run goes on from the last step that
was finished.`,
		Example: "hutch template prepare\nhutch template prepare base --mirror http://mirror.example.com/debian",
		RunE: func(cmd *cobra.Command, names []string) error {
			return t.with(cmd.Context(), d, func(all Templates) error {
				show := newProgress(d.Stderr, terminal(d.Stderr))
				defer show.Close()
				return all.Prepare(cmd.Context(), names, show.Report)
			})
		},
	}
	t.flags(c, true)
	c.Flags().StringVar(&t.src.Mirror, "mirror", "", "another Debian archive to take packages from")
	c.Flags().StringVar(&t.src.Security, "security-mirror", "", "another Debian security archive")
	c.Flags().StringVar(&t.src.PyPI, "pypi", "", "another Python package index")
	c.Flags().StringVar(&t.src.NPM, "npm", "", "another npm registry")
	c.Flags().StringVar(&t.src.GoProxy, "goproxy", "", "another Go module proxy")
	alsoFromEnv(c, "mirror", "security-mirror", "pypi", "npm", "goproxy")
	return c
}

// templateName is what a template may be called.
var templateName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func newTemplatePull(d Deps) *cobra.Command {
	var t templates
	var name string
	c := &cobra.Command{
		Use:   "pull IMAGE",
		Short: "Make a template from an OCI image",
		Long: `Make a template from an image of any OCI registry. Credentials come from
~/.docker/config.json, as docker login leaves them there.`,
		Example: "hutch template pull python:3.13-slim\nhutch template pull registry.example.com/team/tools:v7 --name tools",
		Args:    exactly(1, "the reference of an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				name = nameOf(args[0])
			}
			if !templateName.MatchString(name) {
				return usage("%q cannot be the name of a template: give one of small letters, digits, dots and dashes with --name", name)
			}
			return t.with(cmd.Context(), d, func(all Templates) error {
				show := newProgress(d.Stderr, terminal(d.Stderr))
				err := all.Pull(cmd.Context(), name, args[0], show.Report)
				show.Close()
				if err == nil {
					line(d.Stdout, name)
				}
				return err
			})
		},
	}
	t.flags(c, true)
	c.Flags().BoolVar(&t.src.AllowPrivate, "allow-private", false, "the registry may have a private address, or be reached through a proxy")
	c.Flags().StringVar(&name, "name", "", "what to call the template (default: the last part of IMAGE)")
	return c
}

// nameOf makes a template's name of an image's: "ghcr.io/a/Tools:v1" is "tools".
func nameOf(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	last := path.Base(ref)
	last, _, _ = strings.Cut(last, ":")
	return strings.ToLower(last)
}

func newTemplateList(d Deps) *cobra.Command {
	var t templates
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List templates",
		Example: "hutch template list\nhutch template list --json",
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.with(cmd.Context(), d, func(all Templates) error {
				found, err := all.List(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					if found == nil {
						found = []Template{}
					}
					return writeJSON(d.Stdout, found)
				}
				rows := [][]string{{"ID", "NAME", "STATUS", "SIZE", "UPDATED"}}
				for _, x := range found {
					rows = append(rows, []string{x.ID, x.Name, x.Status, size(x.Size), moment(x.Updated, "")})
				}
				return table(d.Stdout, rows)
			})
		},
	}
	t.flags(c, false)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// size shows bytes in the largest unit that leaves a number of one to four digits.
func size(n int64) string {
	const unit = 1 << 10
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for ; f >= 1000 && i < 3; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGT"[i])
}
