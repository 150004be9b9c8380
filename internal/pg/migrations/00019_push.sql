-- +goose Up

-- Where workers deliver a queue's messages to. Its secrets are sealed.
ALTER TABLE queues ADD COLUMN push jsonb;
CREATE INDEX queues_push ON queues (tenant, name) WHERE push IS NOT NULL;

-- How the calls of a push do in each worker, as it writes from time to time.
CREATE TABLE queue_pushes (
    tenant          text        NOT NULL,
    queue           text        NOT NULL,
    worker          uuid        NOT NULL,
    breaker         text        NOT NULL,
    resume_at       timestamptz,
    outstanding     integer     NOT NULL,
    concurrency     integer     NOT NULL,
    latency         interval    NOT NULL,
    last_success_at timestamptz,
    last_error      text        NOT NULL,
    last_error_at   timestamptz,
    written_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, queue, worker),
    FOREIGN KEY (tenant, queue) REFERENCES queues ON DELETE CASCADE
);
CREATE INDEX ON queue_pushes (written_at);
SELECT plinth_isolate('queue_pushes');
