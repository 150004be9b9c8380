-- +goose Up

SELECT plinth_count('dead_letters', 'dead_letters');

-- What the broker in PostgreSQL holds, outstanding messages included. One trigger counts both, since many messages pass here.
-- +goose StatementBegin
CREATE FUNCTION plinth_count_queue_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tenant_usage_deltas (tenant, resource, n)
    SELECT c.tenant, r.resource, CASE TG_OP WHEN 'INSERT' THEN r.n ELSE -r.n END
    FROM (SELECT tenant, count(*) AS messages, sum(octet_length(body)) AS bytes FROM changed GROUP BY tenant) AS c
    CROSS JOIN LATERAL (VALUES ('queue_messages', messages), ('queue_bytes', bytes)) AS r (resource, n);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER plinth_count_queue_messages_added AFTER INSERT ON broker_messages
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION plinth_count_queue_messages();
CREATE TRIGGER plinth_count_queue_messages_removed AFTER DELETE ON broker_messages
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION plinth_count_queue_messages();

-- How many messages RabbitMQ holds for a queue, as it was asked last. They are counted in the place of rows of broker_messages.
CREATE TABLE queue_depths (
    tenant      text        NOT NULL,
    queue       text        NOT NULL,
    messages    bigint      NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, queue),
    FOREIGN KEY (tenant, queue) REFERENCES queues ON DELETE CASCADE
);
CREATE INDEX ON queue_depths (measured_at);
SELECT plinth_isolate('queue_depths');

-- +goose StatementBegin
CREATE FUNCTION plinth_count_queue_depths() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO tenant_usage_deltas (tenant, resource, n) SELECT tenant, 'queue_messages', -sum(messages) FROM before GROUP BY tenant;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO tenant_usage_deltas (tenant, resource, n) SELECT tenant, 'queue_messages', sum(messages) FROM later GROUP BY tenant;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER plinth_count_queue_depths_added AFTER INSERT ON queue_depths
    REFERENCING NEW TABLE AS later FOR EACH STATEMENT EXECUTE FUNCTION plinth_count_queue_depths();
CREATE TRIGGER plinth_count_queue_depths_changed AFTER UPDATE ON queue_depths
    REFERENCING OLD TABLE AS before NEW TABLE AS later FOR EACH STATEMENT EXECUTE FUNCTION plinth_count_queue_depths();
CREATE TRIGGER plinth_count_queue_depths_removed AFTER DELETE ON queue_depths
    REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION plinth_count_queue_depths();

SET LOCAL ROLE plinth_system;
INSERT INTO tenant_usage (tenant, resource, n)
SELECT c.tenant, r.resource, r.n FROM (SELECT tenant, count(*) AS messages, sum(octet_length(body)) AS bytes FROM broker_messages GROUP BY tenant) AS c
CROSS JOIN LATERAL (VALUES ('queue_messages', messages), ('queue_bytes', bytes)) AS r (resource, n);
RESET ROLE;
