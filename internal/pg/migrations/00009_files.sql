-- +goose Up

-- plinth_count_changes counts a resource as plinth_count does, and updates, too: amount may use columns that change. It is for
-- tables whose rows are few and change seldom.
-- +goose StatementBegin
CREATE FUNCTION plinth_count_changes(counted regclass, resource text, amount text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    counter text := 'plinth_count_' || resource || '_changed';
BEGIN
    PERFORM plinth_count(counted, resource, amount);
    EXECUTE format($f$
        CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS $t$
        BEGIN
            INSERT INTO tenant_usage_deltas (tenant, resource, n)
            SELECT tenant, %L, sum(n) FROM (
                SELECT tenant, %s AS n FROM after UNION ALL SELECT tenant, -(%s) FROM before
            ) AS changes GROUP BY tenant HAVING sum(n) <> 0;
            RETURN NULL;
        END $t$ $f$, counter, resource, amount, amount);
    EXECUTE format('CREATE TRIGGER %I AFTER UPDATE ON %s REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION %I()',
        counter, counted, counter);
END
$$;
-- +goose StatementEnd

CREATE TABLE files (
    tenant                text        NOT NULL,
    id                    uuid        NOT NULL,
    filename              text        NOT NULL,
    folder                text        NOT NULL DEFAULT '',
    state                 text        NOT NULL,
    size                  bigint      NOT NULL DEFAULT 0,
    reserved              bigint      NOT NULL DEFAULT 0, -- bytes that the tenant's quota counts
    content_type          text        NOT NULL DEFAULT '',
    declared_content_type text        NOT NULL DEFAULT '',
    checksum              bytea,                          -- SHA-256, once it is known
    attributes            jsonb       NOT NULL DEFAULT '{}',
    failure               text        NOT NULL DEFAULT '',
    idempotency_key       text,
    etag                  text        NOT NULL DEFAULT '', -- of the object, and its version where the bucket has versions
    version               text        NOT NULL DEFAULT '',
    upload_id             text        NOT NULL DEFAULT '', -- of the object's parts, while there may be some
    created_at            timestamptz NOT NULL DEFAULT now(),
    expires_at            timestamptz NOT NULL DEFAULT 'infinity',
    writable_until        timestamptz NOT NULL DEFAULT '-infinity', -- until then bytes may still arrive at the object
    due_at                timestamptz NOT NULL DEFAULT 'infinity',  -- when a worker has something to do with it
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX ON files (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX ON files (due_at) WHERE due_at < 'infinity'; -- for workers, who act for all tenants
CREATE INDEX ON files (tenant, folder COLLATE "C", id);
CREATE INDEX ON files (tenant, filename text_pattern_ops, id);
CREATE INDEX ON files USING gin (attributes jsonb_path_ops);
SELECT plinth_isolate('files');
SELECT plinth_count_changes('files', 'file_count', $$CASE WHEN state IN ('pending', 'verifying', 'ready') THEN 1 ELSE 0 END$$);
SELECT plinth_count_changes('files', 'file_bytes', $$CASE WHEN state IN ('pending', 'verifying', 'ready') THEN reserved ELSE 0 END$$);

-- What the reaper of objects without rows knows of this database: since when it has lived as it is now. An object from before
-- that may have lost its row with a restore.
CREATE TABLE file_storage (
    identity text        NOT NULL,
    since    timestamptz NOT NULL
);
SELECT plinth_system_only('file_storage');
