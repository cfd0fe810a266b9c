package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date.
//
// Two processes may do it at once. Each step is one transaction that also
// writes the version, so one of them wins a step and the other fails on it
// having changed nothing: as long as the version moves, it goes on from there.
func migrate(ctx context.Context, db *sql.DB) error {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	var last int64 = -1
	for {
		p, err := goose.NewProvider(goose.DialectSQLite3, db, sub, goose.WithDisableGlobalRegistry(true))
		if err != nil {
			return err
		}
		_, upErr := p.Up(ctx)
		now, want, err := p.GetVersions(ctx)
		switch {
		case err != nil:
			return errors.Join(upErr, err)
		case now > want:
			return fmt.Errorf("its schema is version %d and this program knows versions up to %d: use a newer program", now, want)
		case now == want:
			return nil
		case now == last:
			return upErr
		}
		last = now
	}
}
