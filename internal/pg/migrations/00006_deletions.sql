-- +goose Up

-- A tenant that is being deleted stays until nothing is left of it.
ALTER TABLE tenants
    ADD COLUMN deleted_at    timestamptz, -- when it was asked for
    ADD COLUMN delete_due_at timestamptz; -- the next step
CREATE INDEX ON tenants (delete_due_at) WHERE delete_due_at IS NOT NULL;
