-- +goose Up

-- What the broker has yet to follow of the changes to queues. It is written in the transaction that changes the queue, and
-- deleted when the broker has followed. Whoever changes a queue does that at once; another process does it when due_at is over.
CREATE TABLE queue_intents (
    tenant   text        NOT NULL,
    queue    text        NOT NULL,
    token    uuid        NOT NULL, -- of who has it in hand
    due_at   timestamptz NOT NULL,
    failures integer     NOT NULL DEFAULT 0,
    remove   boolean     NOT NULL, -- what the broker has by this name is of a queue that was deleted
    again    boolean     NOT NULL, -- somebody else may still be at it: look once more, later
    topics   text[]      NOT NULL DEFAULT '{}', -- bindings that ended; likewise
    patterns text[]      NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, queue)
);
CREATE INDEX ON queue_intents (due_at);
SELECT plinth_isolate('queue_intents');
