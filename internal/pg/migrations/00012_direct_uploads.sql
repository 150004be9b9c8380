-- +goose Up

-- Uploads that clients send to the bucket themselves, and files whose SHA-256 is still to be found out.
ALTER TABLE files
    ADD COLUMN direct_until timestamptz,                      -- until then the client may send its bytes; NULL is another upload
    ADD COLUMN expected     bytea,                            -- SHA-256 that its bytes must have
    ADD COLUMN part_size    bigint NOT NULL DEFAULT 0,        -- of its parts; 0 is one PUT
    ADD COLUMN verify_at    timestamptz NOT NULL DEFAULT 'infinity'; -- when a worker is to read it and find out its SHA-256
CREATE INDEX ON files (tenant, verify_at) WHERE verify_at < 'infinity';
CREATE INDEX ON files (verify_at) WHERE verify_at < 'infinity'; -- for workers, who act for all tenants
CREATE INDEX ON files (tenant, writable_until) WHERE direct_until IS NOT NULL AND state IN ('deleting', 'failed');
