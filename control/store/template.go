package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	hutch "github.com/hutch-sh/hutch"
)

const noTemplate = "Template not found"

// PutTemplate adds t, or replaces the template of the same organization and
// name, which keeps its ID and Created. t.ID is ignored: ids are decimal
// numbers given here, never twice. Name, Created and Updated must be set. It
// returns the template as it is now.
func (db *DB) PutTemplate(ctx context.Context, t hutch.Template) (hutch.Template, error) {
	const op = "store.PutTemplate"
	c, err := templateColumns(t)
	if err != nil {
		return hutch.Template{}, fail(op, err)
	}
	var out hutch.Template
	err = db.write(ctx, func(x *tx) error {
		var id, created int64
		err := x.row(`SELECT id, created FROM templates WHERE org = $1 AND name = $2`, int64(t.Org), t.Name).Scan(&id, &created)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			if err := x.row(`UPDATE counters SET value = value + 1 WHERE name = 'template' RETURNING value`).Scan(&id); err != nil {
				return err
			}
			_, err = x.exec(`INSERT INTO templates (display_name, description, category, language, icon, features, tags, public,
					status, fault, image, size, env, workdir, resources, updated, id, org, name, created)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)`,
				append(c, id, int64(t.Org), t.Name, ms(t.Created))...)
		case err == nil:
			_, err = x.exec(`UPDATE templates SET display_name = $1, description = $2, category = $3, language = $4, icon = $5,
					features = $6, tags = $7, public = $8, status = $9, fault = $10, image = $11, size = $12, env = $13,
					workdir = $14, resources = $15, updated = $16
				WHERE id = $17`, append(c, id)...)
		}
		if err != nil {
			return err
		}
		out, err = scanTemplate(x.row(selectTemplate+` WHERE id = $1`, id))
		return err
	})
	return out, fail(op, err)
}

// Template returns a template that org may use: its own or a public one. An id
// is taken before a name, and org's own name before a public one. NotFound for
// every other.
func (db *DB) Template(ctx context.Context, org hutch.OrgID, nameOrID string) (hutch.Template, error) {
	t, err := one(ctx, db, scanTemplate, findTemplate, int64(org), nameOrID, templateNumber(nameOrID))
	return t, fail("store.Template", orNotFound(err, noTemplate))
}

// Templates returns the templates org may use, in the order they were made.
// An empty category or language does not restrict.
func (db *DB) Templates(ctx context.Context, org hutch.OrgID, category, language string) ([]hutch.Template, error) {
	ts, err := all(ctx, db, scanTemplate, selectTemplate+`
		WHERE (org = $1 OR public) AND (category = $2 OR $2 = '') AND (language = $3 OR $3 = '') ORDER BY id`,
		int64(org), category, language)
	return ts, fail("store.Templates", err)
}

// DeleteTemplate forgets a template of org; its image stays on the hosts.
// NotFound as [DB.Template], Forbidden for a public one, Conflict while a
// sandbox made from it is not gone.
func (db *DB) DeleteTemplate(ctx context.Context, org hutch.OrgID, nameOrID string) error {
	return fail("store.DeleteTemplate", db.write(ctx, func(x *tx) error {
		t, err := scanTemplate(x.row(findTemplate, int64(org), nameOrID, templateNumber(nameOrID)))
		if err != nil {
			return orNotFound(err, noTemplate)
		}
		if t.Public || t.Org != org {
			return &hutch.Error{Kind: hutch.Forbidden, Msg: "Template " + t.Name + " is public and cannot be deleted"}
		}
		var users int
		if err := x.row(`SELECT COUNT(*) FROM sandboxes WHERE template = $1 AND state <> 'gone'`, string(t.ID)).Scan(&users); err != nil {
			return err
		}
		if users > 0 {
			return &hutch.Error{Kind: hutch.Conflict, Details: map[string]any{"sandboxes": users},
				Msg: fmt.Sprintf("Template %s is used by %d sandboxes: delete them first", t.Name, users)}
		}
		_, err = x.exec(`DELETE FROM templates WHERE id = $1`, templateNumber(string(t.ID)))
		return err
	}))
}

const selectTemplate = `SELECT id, org, name, created, display_name, description, category, language, icon, features, tags, public,
	status, fault, image, size, env, workdir, resources, updated FROM templates`

const findTemplate = selectTemplate + ` WHERE (org = $1 OR public) AND (name = $2 OR id = $3)
	ORDER BY CASE WHEN id = $3 THEN 0 WHEN org = $1 THEN 1 ELSE 2 END, id LIMIT 1`

// templateNumber returns the number an id stands for; 0, which none has, for
// what is not an id.
func templateNumber(id string) int64 {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != id {
		return 0
	}
	return n
}

// sizes is the resources column.
type sizes struct {
	Default hutch.Resources `json:"default"`
	Min     hutch.Resources `json:"min"`
	Max     hutch.Resources `json:"max"`
}

// templateColumns returns what a replacement changes, in the order of the statements above.
func templateColumns(t hutch.Template) ([]any, error) {
	var jsons [3]string
	for i, v := range []any{nonNil(t.Features), nonNil(t.Tags), sizes{t.Default, t.Min, t.Max}} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		jsons[i] = string(b)
	}
	env, err := marshalMap(t.Env)
	if err != nil {
		return nil, err
	}
	return []any{t.DisplayName, t.Description, t.Category, t.Language, t.Icon, jsons[0], jsons[1], t.Public,
		string(t.Status), t.Fault, string(t.Image), t.Size, env, t.Workdir, jsons[2], ms(t.Updated)}, nil
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func scanTemplate(r row) (hutch.Template, error) {
	var (
		t                              hutch.Template
		id, created, updated           int64
		features, tags, env, resources string
		z                              sizes
	)
	err := r.Scan(&id, &t.Org, &t.Name, &created, &t.DisplayName, &t.Description, &t.Category, &t.Language, &t.Icon,
		&features, &tags, &t.Public, &t.Status, &t.Fault, &t.Image, &t.Size, &env, &t.Workdir, &resources, &updated)
	if err != nil {
		return hutch.Template{}, err
	}
	for _, c := range []struct {
		text string
		into any
	}{{features, &t.Features}, {tags, &t.Tags}, {env, &t.Env}, {resources, &z}} {
		if err := json.Unmarshal([]byte(c.text), c.into); err != nil {
			return hutch.Template{}, fmt.Errorf("template %d: %w", id, err)
		}
	}
	t.ID = hutch.TemplateID(strconv.FormatInt(id, 10))
	t.Default, t.Min, t.Max = z.Default, z.Min, z.Max
	t.Created, t.Updated = at(created), at(updated)
	return t, nil
}
