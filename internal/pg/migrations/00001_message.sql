-- +goose Up

CREATE TABLE queues (
    tenant     text        NOT NULL DEFAULT 'default',
    name       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name)
);

-- The PostgreSQL broker's own tables. A queue's name begins with its tenant; its id tells it from one of the same name
-- that was deleted before.

CREATE TABLE broker_queues (
    id     bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name   text   NOT NULL UNIQUE,
    tenant text   NOT NULL GENERATED ALWAYS AS (split_part(name, '.', 1)) STORED
);

-- No foreign key to broker_queues: publishing locks the queue's row against deletion once for a whole batch, and a
-- foreign key would do it again for each message.
--
-- One index serves everything. No column in it ever changes, so claims, renewals and returns leave it alone (HOT updates)
-- where the page has room for the new version. The fill factor keeps room for the one claim of every row.
CREATE TABLE broker_messages (
    queue_id     bigint      NOT NULL,
    seq          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    available_at timestamptz NOT NULL DEFAULT now(),
    id           uuid        NOT NULL,
    lease        uuid,
    attempt      integer     NOT NULL DEFAULT 0,
    tenant       text        NOT NULL,
    attributes   json        NOT NULL, -- not jsonb, which refuses the character U+0000
    body         bytea       NOT NULL,
    PRIMARY KEY (queue_id, seq)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
