package main

import (
	"context"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/cli"
	"github.com/hutch-sh/hutch/control/store"
	"github.com/hutch-sh/hutch/host/image"
)

// defaultTemplates are what a server offers from its first start, in the order
// they are prepared: the second is made on top of the first.
var defaultTemplates = []string{"base", "code-interpreter"}

// shelf implements [cli.Templates]: images on disk and their rows.
type shelf struct {
	images *image.Store
	db     *store.DB
}

func openTemplates(ctx context.Context, dir string, src cli.Sources) (cli.Templates, error) {
	data, err := openData(dir)
	if err != nil {
		return nil, err
	}
	images, err := image.Open(data.path("images"), image.Options{
		ExtraCA: src.ExtraCA, Mirror: src.Mirror, Security: src.Security,
		PyPI: src.PyPI, NPM: src.NPM, GoProxy: src.GoProxy, AllowPrivate: src.AllowPrivate,
	})
	if err != nil {
		return nil, err
	}
	db, err := data.openStore(ctx)
	if err != nil {
		return nil, err
	}
	return shelf{images, db}, nil
}

func (s shelf) Prepare(ctx context.Context, names []string, report func(cli.Progress)) error {
	if len(names) == 0 {
		names = defaultTemplates
	}
	for _, name := range names {
		img, err := s.images.Prepare(ctx, name, reporter(report))
		if err != nil {
			return err
		}
		if err := register(ctx, s.db, img); err != nil {
			return err
		}
	}
	return nil
}

func (s shelf) Pull(ctx context.Context, name, ref string, report func(cli.Progress)) error {
	img, err := s.images.Pull(ctx, name, ref, nil, reporter(report))
	if err != nil {
		return err
	}
	return register(ctx, s.db, img)
}

func (s shelf) List(ctx context.Context) ([]cli.Template, error) {
	rows, err := s.db.Templates(ctx, hutch.DefaultOrg, "", "")
	if err != nil {
		return nil, err
	}
	shown := make([]cli.Template, len(rows))
	for i, t := range rows {
		shown[i] = cli.Template{ID: string(t.ID), Name: t.Name, Status: string(t.Status), Size: t.Size, Updated: t.Updated}
	}
	return shown, nil
}

func (s shelf) Close() error { return s.db.Close() }

// reporter turns a store's progress into the command line's. A store says that
// a step is over by counting it.
func reporter(report func(cli.Progress)) func(image.Progress) {
	var step cli.Progress // the one under way
	finished := 0
	return func(p image.Progress) {
		if p.Step != step.Name || p.Template != step.Template {
			step = cli.Progress{Template: p.Template, Name: p.Step, Step: p.Done + 1, Steps: p.Total}
		}
		step.Bytes, step.Total = p.Bytes, p.OfBytes
		step.Done = p.Done > finished
		finished = p.Done
		report(step)
	}
}

// register makes an image the template of its name, for everybody.
func register(ctx context.Context, db *store.DB, img image.Image) error {
	t := img.Template()
	t.Org, t.Public, t.Status = hutch.DefaultOrg, true, hutch.TemplateActive
	t.Created, t.Updated = img.Created, time.Now()
	_, err := db.PutTemplate(ctx, t)
	return err
}

// registerAll makes templates of all images that are there, so that a data
// directory whose images were brought from elsewhere works as it is.
func registerAll(ctx context.Context, db *store.DB, images *image.Store) (int, error) {
	all, err := images.Images()
	if err != nil {
		return 0, err
	}
	newest := map[string]image.Image{}
	for _, img := range all { // oldest first
		newest[img.Name] = img
	}
	for name, img := range newest {
		if row, err := db.Template(ctx, hutch.DefaultOrg, name); err == nil && row.Image == img.Digest {
			continue
		}
		if err := register(ctx, db, img); err != nil {
			return 0, err
		}
	}
	return len(newest), nil
}
