-- Every statement here runs unchanged on SQLite and on PostgreSQL.
-- Times are milliseconds since 1970 in UTC, 0 for "not yet" or "never".
-- Columns that hold JSON are TEXT: no query looks inside them.

-- +goose Up
CREATE TABLE organizations (
    id      BIGINT NOT NULL PRIMARY KEY,
    name    TEXT   NOT NULL UNIQUE CHECK (name <> ''),
    created BIGINT NOT NULL CHECK (created >= 0)
);
INSERT INTO organizations (id, name, created) VALUES (1, 'default', 0);

-- Numbers handed out once and never again, whatever is deleted later.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL CHECK (value >= 0)
);
INSERT INTO counters (name, value) VALUES ('template', 0);

CREATE TABLE api_keys (
    id        TEXT   NOT NULL PRIMARY KEY CHECK (id <> ''),
    org       BIGINT NOT NULL REFERENCES organizations (id),
    name      TEXT   NOT NULL,
    hash      BYTEA  NOT NULL CHECK (length(hash) > 0),
    created   BIGINT NOT NULL CHECK (created > 0),
    expires   BIGINT NOT NULL CHECK (expires >= 0),
    last_used BIGINT NOT NULL CHECK (last_used >= 0),
    revoked   BIGINT NOT NULL CHECK (revoked >= 0)
);
CREATE INDEX api_keys_org ON api_keys (org, created);

CREATE TABLE templates (
    id           BIGINT  NOT NULL PRIMARY KEY,
    org          BIGINT  NOT NULL REFERENCES organizations (id),
    name         TEXT    NOT NULL CHECK (name <> ''),
    display_name TEXT    NOT NULL,
    description  TEXT    NOT NULL,
    category     TEXT    NOT NULL,
    language     TEXT    NOT NULL,
    icon         TEXT    NOT NULL,
    features     TEXT    NOT NULL,
    tags         TEXT    NOT NULL,
    public       BOOLEAN NOT NULL,
    status       TEXT    NOT NULL CHECK (status IN ('building', 'active', 'failed')),
    fault        TEXT    NOT NULL,
    image        TEXT    NOT NULL,
    size         BIGINT  NOT NULL CHECK (size >= 0),
    env          TEXT    NOT NULL,
    workdir      TEXT    NOT NULL,
    resources    TEXT    NOT NULL,
    created      BIGINT  NOT NULL CHECK (created > 0),
    updated      BIGINT  NOT NULL CHECK (updated >= created),
    UNIQUE (org, name),
    CHECK (status <> 'active' OR image <> '')
);

CREATE TABLE sandboxes (
    id            TEXT   NOT NULL PRIMARY KEY CHECK (id <> ''),
    org           BIGINT NOT NULL REFERENCES organizations (id),
    host          TEXT   NOT NULL,
    template      TEXT   NOT NULL,
    template_name TEXT   NOT NULL,
    spec          TEXT   NOT NULL,
    region        TEXT   NOT NULL,
    metadata      TEXT   NOT NULL,

    -- written by orders
    want TEXT   NOT NULL CHECK (want IN ('running', 'paused', 'stopped', 'gone')),
    why  TEXT   NOT NULL,
    gen  BIGINT NOT NULL CHECK (gen >= 1),

    -- written by facts
    state   TEXT   NOT NULL CHECK (state IN ('creating', 'running', 'paused', 'stopped', 'error', 'gone')),
    addr    TEXT   NOT NULL,
    fault   TEXT   NOT NULL,
    started BIGINT NOT NULL CHECK (started >= 0),
    ended   BIGINT NOT NULL CHECK (ended >= 0),

    on_timeout TEXT   NOT NULL CHECK (on_timeout IN ('gone', 'paused', 'stopped')),
    timeout_ms BIGINT NOT NULL CHECK (timeout_ms >= 0),
    created    BIGINT NOT NULL CHECK (created > 0),
    deadline   BIGINT NOT NULL CHECK (deadline >= 0),

    -- What is gone was ordered gone, and only what is gone has ended.
    CHECK (state <> 'gone' OR want = 'gone'),
    CHECK ((state = 'gone') = (ended > 0)),
    -- Only what runs or sleeps in memory has an address.
    CHECK (addr = '' OR state IN ('running', 'paused'))
);
CREATE INDEX sandboxes_alive    ON sandboxes (org, created DESC, id DESC) WHERE want <> 'gone';
CREATE INDEX sandboxes_dead     ON sandboxes (org, created DESC, id DESC) WHERE want = 'gone';
CREATE INDEX sandboxes_due      ON sandboxes (deadline) WHERE deadline > 0 AND want <> 'gone';
CREATE INDEX sandboxes_unmet    ON sandboxes (created) WHERE state <> 'gone' AND state <> want;
CREATE INDEX sandboxes_host     ON sandboxes (host) WHERE state <> 'gone';
CREATE INDEX sandboxes_template ON sandboxes (template) WHERE state <> 'gone';
CREATE INDEX sandboxes_ended    ON sandboxes (ended) WHERE state = 'gone';

-- The owner's labels once more, one row each, to be searched.
CREATE TABLE sandbox_metadata (
    id    TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (id, key)
);

CREATE TABLE idempotency (
    org       BIGINT NOT NULL REFERENCES organizations (id),
    key       TEXT   NOT NULL CHECK (key <> ''),
    body_hash BYTEA  NOT NULL,
    sandbox   TEXT   NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    created   BIGINT NOT NULL CHECK (created > 0),
    PRIMARY KEY (org, key)
);
CREATE INDEX idempotency_sandbox ON idempotency (sandbox);
CREATE INDEX idempotency_created ON idempotency (created);

-- +goose Down
DROP TABLE idempotency;
DROP TABLE sandbox_metadata;
DROP TABLE sandboxes;
DROP TABLE templates;
DROP TABLE api_keys;
DROP TABLE counters;
DROP TABLE organizations;
