-- +goose Up

CREATE TABLE notes (
    tenant     text        NOT NULL,
    id         uuid        NOT NULL,
    text       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (tenant, id)
);
CREATE INDEX ON notes (expires_at) WHERE expires_at < 'infinity'; -- for the job, which is of all tenants
SELECT plinth_isolate('notes');
SELECT plinth_count('notes', 'notes');
