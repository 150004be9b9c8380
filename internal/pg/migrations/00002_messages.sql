-- +goose Up

ALTER TABLE queues
    ADD COLUMN max_attempts          integer  NOT NULL DEFAULT 10,
    ADD COLUMN min_backoff           interval NOT NULL DEFAULT '1 second',
    ADD COLUMN max_backoff           interval NOT NULL DEFAULT '10 minutes',
    ADD COLUMN message_ttl           interval NOT NULL DEFAULT '0', -- 0 is none
    ADD COLUMN max_length            bigint   NOT NULL DEFAULT 0,   -- 0 is none
    ADD COLUMN dead_letter_retention interval NOT NULL DEFAULT '30 days',
    ADD COLUMN paused                boolean  NOT NULL DEFAULT false;

CREATE TABLE queue_bindings (
    tenant  text NOT NULL,
    queue   text NOT NULL,
    topic   text NOT NULL,
    pattern text NOT NULL,
    PRIMARY KEY (tenant, queue, topic, pattern),
    FOREIGN KEY (tenant, queue) REFERENCES queues ON DELETE CASCADE
);
CREATE INDEX ON queue_bindings (tenant, topic);

-- What went through a queue, counted by all processes in buckets of ten seconds.
CREATE TABLE queue_rates (
    tenant       text        NOT NULL,
    queue        text        NOT NULL,
    bucket       timestamptz NOT NULL,
    published    bigint      NOT NULL,
    delivered    bigint      NOT NULL,
    acknowledged bigint      NOT NULL,
    PRIMARY KEY (tenant, queue, bucket)
);
CREATE INDEX ON queue_rates (bucket);

-- Messages that cannot or must not go to the broker now. A row goes to its queue, or to its topic where queue is empty.
-- A message that was published to a topic may wait for its next attempt in several queues.
CREATE TABLE message_waiting (
    tenant          text        NOT NULL,
    id              uuid        NOT NULL,
    queue           text        NOT NULL,
    topic           text        NOT NULL DEFAULT '',
    routing_key     text        NOT NULL DEFAULT '',
    due_at          timestamptz NOT NULL,
    attempts        integer     NOT NULL DEFAULT 0, -- that failed so far
    reason          text        NOT NULL DEFAULT '', -- of the last one
    first_failed_at timestamptz,
    headers         json        NOT NULL DEFAULT '{}', -- json and not jsonb, which refuses the character U+0000
    attributes      json        NOT NULL DEFAULT '{}',
    body            bytea       NOT NULL,
    PRIMARY KEY (tenant, id, queue)
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX ON message_waiting (due_at);
CREATE INDEX ON message_waiting (tenant, queue);

-- Idempotency keys that publishers used; destination is the queue, or the topic with 'topic:' before it.
CREATE TABLE message_keys (
    tenant      text        NOT NULL,
    destination text        NOT NULL,
    key         text        NOT NULL,
    id          uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, destination, key)
);
CREATE INDEX ON message_keys (created_at);

-- Messages whose effect is committed, by consumer: a redelivery finds its row and does nothing.
CREATE TABLE message_handled (
    tenant     text        NOT NULL,
    consumer   text        NOT NULL,
    message_id uuid        NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, consumer, message_id)
);
CREATE INDEX ON message_handled USING brin (handled_at);

CREATE TABLE dead_letters (
    tenant          text        NOT NULL,
    id              uuid        NOT NULL,
    queue           text        NOT NULL,
    message_id      uuid        NOT NULL,
    reason          text        NOT NULL,
    attempts        integer     NOT NULL,
    first_failed_at timestamptz NOT NULL,
    last_failed_at  timestamptz NOT NULL,
    headers         json        NOT NULL,
    attributes      json        NOT NULL,
    body            bytea       NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, queue, message_id)
);
CREATE INDEX ON dead_letters (tenant, queue, last_failed_at DESC, id DESC);

-- Redrives and purges. A dry run is planned; its id is the token.
CREATE TABLE dead_letter_operations (
    tenant         text        NOT NULL,
    id             uuid        NOT NULL,
    kind           text        NOT NULL CHECK (kind IN ('redrive', 'purge')),
    queue          text        NOT NULL,
    state          text        NOT NULL CHECK (state IN ('planned', 'running', 'done')),
    principal      text        NOT NULL,
    max_per_second integer     NOT NULL,
    total          bigint      NOT NULL,
    done           bigint      NOT NULL DEFAULT 0,
    skipped        bigint      NOT NULL DEFAULT 0,
    created_at     timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz,
    next_due_at    timestamptz, -- earliest moment for the next message that goes back
    PRIMARY KEY (tenant, id)
);
CREATE INDEX ON dead_letter_operations (tenant, queue, id DESC);
CREATE INDEX ON dead_letter_operations (created_at) WHERE state <> 'done';

-- The set that an operation is pinned to; what is done is deleted.
CREATE TABLE dead_letter_operation_items (
    tenant         text   NOT NULL,
    operation_id   uuid   NOT NULL,
    n              bigint NOT NULL,
    dead_letter_id uuid   NOT NULL,
    PRIMARY KEY (tenant, operation_id, n),
    FOREIGN KEY (tenant, operation_id) REFERENCES dead_letter_operations ON DELETE CASCADE
);

-- The PostgreSQL broker's own.

ALTER TABLE broker_queues
    ADD COLUMN message_ttl interval NOT NULL DEFAULT '0',
    ADD COLUMN max_length  bigint   NOT NULL DEFAULT 0;

-- matches is the pattern as a regular expression for "." || routing key, or for '' where the key is empty.
CREATE TABLE broker_bindings (
    queue_id bigint NOT NULL REFERENCES broker_queues ON DELETE CASCADE,
    topic    text   NOT NULL,
    pattern  text   NOT NULL,
    matches  text   NOT NULL,
    tenant   text   NOT NULL GENERATED ALWAYS AS (split_part(topic, '.', 1)) STORED,
    PRIMARY KEY (queue_id, topic, pattern)
);
CREATE INDEX ON broker_bindings (topic);

ALTER TABLE broker_messages
    ADD COLUMN headers    json        NOT NULL DEFAULT '{}',
    ADD COLUMN expires_at timestamptz NOT NULL DEFAULT 'infinity';

-- The one index that claims use cannot find what expires without reading whole queues. This one has no row, and costs
-- nothing, where nothing expires. Its column never changes either, so updates stay HOT.
CREATE INDEX ON broker_messages (expires_at) WHERE expires_at < 'infinity';
