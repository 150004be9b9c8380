-- +goose Up

-- Uploads that any process continues where another one left off. Each belongs to a file that is pending. Its row stays for a while
-- after that, until what a late process may still have written is removed.
CREATE TABLE file_uploads (
    tenant      text        NOT NULL,
    id          uuid        NOT NULL,               -- of the file
    length      bigint,                             -- of the content; null until it is known
    received    bigint      NOT NULL DEFAULT 0,     -- bytes that are stored, from the first one on
    digest      bytea       NOT NULL,               -- the state of SHA-256 after these
    expected    text        NOT NULL DEFAULT '',    -- SHA-256 in hex that the content must have; empty is any
    metadata    text        NOT NULL DEFAULT '',    -- as the client sent it
    next_part   integer     NOT NULL DEFAULT 1,     -- number of the next part: none is sent twice under one number
    token       bigint      NOT NULL DEFAULT 0,     -- fencing token of the latest lease
    lease_until timestamptz NOT NULL DEFAULT now(),
    wanted      boolean     NOT NULL DEFAULT false, -- somebody waits for the lease
    PRIMARY KEY (tenant, id)
);
CREATE INDEX ON file_uploads (lease_until); -- for workers, who act for all tenants
SELECT plinth_isolate('file_uploads');

-- What is stored of them: parts of the object, which have numbers, and after these objects that wait to become a part.
CREATE TABLE file_upload_pieces (
    tenant  text    NOT NULL,
    id      uuid    NOT NULL,
    start   bigint  NOT NULL,            -- in the content
    size    bigint  NOT NULL,
    part    integer NOT NULL DEFAULT 0,  -- number of the part; 0 is an object of its own
    key     text    NOT NULL DEFAULT '', -- of that
    etag    text    NOT NULL,
    version text    NOT NULL DEFAULT '',
    PRIMARY KEY (tenant, id, start)
);
SELECT plinth_isolate('file_upload_pieces');

-- Previews of images. A row asks for one, and then has what became of it.
CREATE TABLE file_previews (
    tenant     text        NOT NULL,
    id         uuid        NOT NULL,            -- of the file
    width      integer     NOT NULL,
    state      text        NOT NULL DEFAULT 'wanted', -- or ready, or refused
    refusal    text        NOT NULL DEFAULT '',
    attempts   integer     NOT NULL DEFAULT 0,
    size       bigint      NOT NULL DEFAULT 0,
    checksum   bytea,
    etag       text        NOT NULL DEFAULT '',
    version    text        NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz NOT NULL DEFAULT now(), -- when a worker has something to do with it
    PRIMARY KEY (tenant, id, width)
);
CREATE INDEX ON file_previews (due_at) WHERE due_at < 'infinity'; -- for workers, who act for all tenants
SELECT plinth_isolate('file_previews');
