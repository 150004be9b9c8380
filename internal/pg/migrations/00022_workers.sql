-- +goose Up

-- The workers that run handlers and pushes, with the queues that their handlers are for. They share the queues among them.
CREATE TABLE message_workers (
    id       uuid        PRIMARY KEY,
    handlers text[]      NOT NULL,
    seen_at  timestamptz NOT NULL DEFAULT now()
);
SELECT plinth_system_only('message_workers');

-- Which change of those that tenant_changes counts was the last one of a tenant, null until it is counted; and which one removed a tenant
-- last. Processes read what is later than what they have. Triggers, since processes of the release before still run.
ALTER TABLE tenants ADD COLUMN change bigint;
SET LOCAL ROLE plinth_system;
UPDATE tenants SET change = 0;
RESET ROLE;
CREATE INDEX ON tenants (change);
ALTER TABLE tenant_changes ADD COLUMN removal bigint NOT NULL DEFAULT 0;
-- +goose StatementBegin
CREATE FUNCTION plinth_tenant_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.change := NULL;
    RETURN NEW;
END $$;
CREATE FUNCTION plinth_tenant_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tenant_changes SET removal = n + 1; -- It locks the row, and the transaction counts itself next.
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER plinth_tenant_changed BEFORE UPDATE OF display_name, disabled, rate_limit, quotas, deleted_at ON tenants
    FOR EACH ROW EXECUTE FUNCTION plinth_tenant_changed();
CREATE TRIGGER plinth_tenant_removed AFTER DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION plinth_tenant_removed();

-- Tables whose rows come and go are vacuumed by what went, not by a fifth of what is there, so that indexes do not lead through what is
-- gone.
ALTER TABLE message_waiting SET (autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE message_keys SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE message_handled SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE dead_letters SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE dead_letter_operation_items SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE tenant_usage_deltas SET (autovacuum_vacuum_cost_delay = 0);
