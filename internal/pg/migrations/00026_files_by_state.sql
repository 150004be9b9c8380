-- +goose Up

-- Files that are not ready, or not any more, are few among many.
CREATE INDEX files_state ON files (tenant, state, id) WHERE state <> 'ready';

-- Under row level security no statement of a tenant can use this one: jsonb's containment is not leakproof.
DROP INDEX files_attributes_idx;
