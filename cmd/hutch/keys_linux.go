package main

import (
	"context"
	"time"

	"github.com/hutch-sh/hutch"
	"github.com/hutch-sh/hutch/cli"
	"github.com/hutch-sh/hutch/control"
	"github.com/hutch-sh/hutch/control/store"
)

// keyring implements [cli.Keys] on a data directory's database.
type keyring struct{ db *store.DB }

func openKeys(ctx context.Context, dir string) (cli.Keys, error) {
	data, err := openData(dir)
	if err != nil {
		return nil, err
	}
	db, err := data.openStore(ctx)
	if err != nil {
		return nil, err
	}
	return keyring{db}, nil
}

func (k keyring) Create(ctx context.Context, name string, expires time.Time) (cli.Key, string, error) {
	full, key, err := control.MintKey(ctx, k.db, hutch.DefaultOrg, name, time.Now(), expires)
	return shownKey(key), full, err
}

func (k keyring) List(ctx context.Context) ([]cli.Key, error) {
	keys, err := k.db.Keys(ctx, hutch.DefaultOrg)
	if err != nil {
		return nil, err
	}
	shown := make([]cli.Key, len(keys))
	for i, key := range keys {
		shown[i] = shownKey(key)
	}
	return shown, nil
}

func (k keyring) Revoke(ctx context.Context, id string) error {
	return k.db.RevokeKey(ctx, hutch.DefaultOrg, id)
}

func (k keyring) Close() error { return k.db.Close() }

func shownKey(k store.Key) cli.Key {
	return cli.Key{ID: k.ID, Name: k.Name, Created: k.Created, Expires: k.Expires, LastUsed: k.LastUsed, Revoked: k.Revoked}
}
