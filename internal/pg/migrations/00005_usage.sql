-- +goose Up

-- Work that one process of the cluster does once in an interval, with the time when it is due.
CREATE TABLE periodic (
    name   text        PRIMARY KEY,
    due_at timestamptz NOT NULL
);
SELECT plinth_system_only('periodic');

-- What each tenant has of what is counted, and its own quota of that where it differs from the service's default. The
-- transactions of a tenant write no common row: they add their differences to tenant_usage_deltas, and one process adds those up
-- once in a while. A tenant has the sum of both.
CREATE TABLE tenant_usage (
    tenant   text   NOT NULL,
    resource text   NOT NULL,
    n        bigint NOT NULL DEFAULT 0,
    quota    bigint, -- 0 is no limit
    PRIMARY KEY (tenant, resource)
);
CREATE TABLE tenant_usage_deltas (
    tenant   text   NOT NULL,
    resource text   NOT NULL,
    n        bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX ON tenant_usage_deltas (tenant, resource);
SELECT plinth_isolate('tenant_usage'), plinth_isolate('tenant_usage_deltas');

-- plinth_count is the one line that a table needs whose rows are counted as a resource of their tenant's. amount is what a row
-- counts for, an expression of columns that are never updated. Whatever inserts or deletes rows is counted, once a statement.
-- +goose StatementBegin
CREATE FUNCTION plinth_count(counted regclass, resource text, amount text DEFAULT '1') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    counter text := 'plinth_count_' || resource;
    role    text := current_setting('role');
BEGIN
    EXECUTE format($f$
        CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS $t$
        BEGIN
            INSERT INTO tenant_usage_deltas (tenant, resource, n)
            SELECT tenant, %L, CASE TG_OP WHEN 'INSERT' THEN sum(%s) ELSE -sum(%s) END FROM changed GROUP BY tenant;
            RETURN NULL;
        END $t$ $f$, counter, resource, amount, amount);
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT ON %s REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION %I()',
        counter || '_added', counted, counter);
    EXECUTE format('CREATE TRIGGER %I AFTER DELETE ON %s REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION %I()',
        counter || '_removed', counted, counter);
    PERFORM set_config('role', 'plinth_system', true);
    EXECUTE format('INSERT INTO tenant_usage (tenant, resource, n) SELECT tenant, %L, sum(%s) FROM %s GROUP BY tenant', resource, amount, counted);
    PERFORM set_config('role', role, true);
END
$$;
-- +goose StatementEnd

SELECT plinth_count('queues', 'queues');
SELECT plinth_count('message_waiting', 'waiting_messages');
SELECT plinth_count('message_waiting', 'waiting_bytes', 'octet_length(body)');

SET LOCAL ROLE plinth_system;
INSERT INTO tenant_usage (tenant, resource, quota)
SELECT name, key, value::bigint FROM tenants, jsonb_each_text(quotas)
ON CONFLICT (tenant, resource) DO UPDATE SET quota = excluded.quota;
RESET ROLE;
