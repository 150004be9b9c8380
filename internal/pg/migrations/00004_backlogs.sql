-- +goose Up

-- The relay goes from backlog to backlog: what waits of a tenant for one queue or topic, the earliest first. The index on
-- due_at alone tells how late the latest of all relays is.
CREATE INDEX message_waiting_backlog ON message_waiting (tenant, queue, topic, due_at);
DROP INDEX message_waiting_tenant_queue_idx;

-- Backlogs that could not be sent, with how long the relays leave them alone.
CREATE TABLE message_backoffs (
    tenant   text        NOT NULL,
    queue    text        NOT NULL,
    topic    text        NOT NULL,
    failures integer     NOT NULL, -- one after the other
    until    timestamptz NOT NULL,
    PRIMARY KEY (tenant, queue, topic)
);
SELECT plinth_system_only('message_backoffs');
