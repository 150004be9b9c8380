-- +goose Up

-- A key is its tenant's, which the primary key says. As long as this index was unique as well, an INSERT of a key that another transaction
-- inserts at the same moment could fail for it, where ON CONFLICT of the primary key would have waited. No release has inserted by this index.
DROP INDEX message_keys_tenant_destination_key_idx;
CREATE INDEX ON message_keys (tenant, destination, key);
