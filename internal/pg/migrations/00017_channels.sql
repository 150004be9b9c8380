-- +goose Up

-- What a tenant's URLs of channels are sealed with. It goes with the tenant, and so do its URLs.
CREATE TABLE channel_secrets (
    tenant     text        PRIMARY KEY,
    secret     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
SELECT plinth_isolate('channel_secrets');
