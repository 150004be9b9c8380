-- +goose Up

-- Locks, as long as somebody has them and for a minute after. The key never changes, so whatever is updated leaves the index alone.
CREATE TABLE locks (
    tenant      text        NOT NULL,
    name        text        NOT NULL,
    token       bigint      NOT NULL, -- of the last lease
    lease_id    uuid,                 -- of who has it; null is nobody
    holder      text        NOT NULL, -- the principal that took it
    owner       text        NOT NULL, -- who that is in its own words
    ttl         interval    NOT NULL,
    acquired_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL, -- or when it was released
    PRIMARY KEY (tenant, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- No token of a tenant's lock that has no row is above this.
CREATE TABLE lock_floors (
    tenant text   PRIMARY KEY,
    token  bigint NOT NULL
);

-- Who waits for a lock, in the order of seq.
CREATE TABLE lock_waiters (
    tenant     text        NOT NULL,
    name       text        NOT NULL,
    seq        bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    lease_id   uuid        NOT NULL,
    process    uuid        NOT NULL, -- that waits for the client
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, name, seq),
    UNIQUE (tenant, name, lease_id)
) WITH (autovacuum_vacuum_scale_factor = 0.01);

-- Processes that wait for clients of a tenant. What waits in one that is not alive does not count.
CREATE TABLE lock_processes (
    tenant      text        NOT NULL,
    process     uuid        NOT NULL,
    alive_until timestamptz NOT NULL,
    PRIMARY KEY (tenant, process)
) WITH (fillfactor = 50);

-- What administrators released by force.
CREATE TABLE lock_forced_releases (
    tenant      text        NOT NULL,
    id          uuid        NOT NULL,
    name        text        NOT NULL,
    token       bigint      NOT NULL,
    holder      text        NOT NULL,
    owner       text        NOT NULL,
    principal   text        NOT NULL,
    reason      text        NOT NULL,
    released_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX ON lock_forced_releases (released_at);

SELECT plinth_isolate(name::regclass)
FROM unnest(ARRAY ['locks', 'lock_floors', 'lock_waiters', 'lock_processes', 'lock_forced_releases']) AS t (name);
