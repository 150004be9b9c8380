-- +goose Up

-- An idempotency key is its tenant's, whatever it is used for: used again for something else it is refused. The digest tells what
-- it was used for; keys of the release before have none. The index is for processes of that release, which still run.
SET LOCAL ROLE plinth_system;
DELETE FROM message_keys k USING message_keys later
WHERE k.tenant = later.tenant AND k.key = later.key AND (k.created_at, k.destination) < (later.created_at, later.destination);
RESET ROLE;
ALTER TABLE message_keys ADD COLUMN digest bytea;
ALTER TABLE message_keys DROP CONSTRAINT message_keys_pkey;
ALTER TABLE message_keys ADD PRIMARY KEY (tenant, key);
CREATE UNIQUE INDEX ON message_keys (tenant, destination, key);
CREATE INDEX ON message_keys (tenant, id); -- frees the key of a message that is cancelled

-- How often a message to a topic found no binding, and whether a message was sent without an outcome so far.
ALTER TABLE message_waiting ADD COLUMN unbound integer NOT NULL DEFAULT 0, ADD COLUMN in_doubt boolean NOT NULL DEFAULT false;

-- The reason with its case folded, for filters. PostgreSQL folds by the collation, and some know ASCII alone.
ALTER TABLE dead_letters ADD COLUMN folded_reason text;

-- Deliveries that the broker counts and that nobody was given: a process took them from the broker, and returned them. earlier is how
-- many attempts the message had when it came to the queue, which tells this stay of it from others.
CREATE TABLE message_uncounted (
    tenant     text        NOT NULL,
    queue      text        NOT NULL,
    message_id text        NOT NULL,
    earlier    integer     NOT NULL,
    n          integer     NOT NULL,
    noted_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, queue, message_id, earlier)
);
CREATE INDEX ON message_uncounted (noted_at);
SELECT plinth_isolate('message_uncounted');

-- What is ready in a queue, and what is leased, each in an index of its own: neither is found behind the other. A lease that ran out
-- is ended by whoever finds it first, so that what has no lease is ready.
CREATE INDEX broker_messages_ready ON broker_messages (queue_id, seq) INCLUDE (expires_at) WHERE lease IS NULL;
CREATE INDEX broker_messages_leased ON broker_messages (available_at, lease) WHERE lease IS NOT NULL;
ALTER TABLE broker_messages SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05);

-- How many messages a queue with a max_length takes before they are counted again.
ALTER TABLE broker_queues ADD COLUMN room bigint;
SET LOCAL ROLE plinth_system;
UPDATE broker_queues q SET room = max_length - (
    SELECT count(*) FROM (SELECT FROM broker_messages m WHERE m.queue_id = q.id AND m.lease IS NULL LIMIT q.max_length) AS waiting)
WHERE max_length > 0;
RESET ROLE;

-- BRIN no longer tells the old from the new once pages are used again.
CREATE INDEX message_handled_time ON message_handled (handled_at);
DROP INDEX message_handled_handled_at_idx;
