-- +goose Up

-- The roles that every statement of the service acts in. They are the cluster's, and several databases may share them; a
-- login that may not make roles needs somebody to make them and grant them to it once.
-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY ['plinth_app', 'plinth_system'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL; -- Another database's migration was faster.
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'the user % may not make roles: as a superuser, run CREATE ROLE plinth_app NOLOGIN; CREATE ROLE plinth_system NOLOGIN; GRANT plinth_app, plinth_system TO %', current_user, current_user;
            END;
        END IF;
        CONTINUE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
        BEGIN
            EXECUTE format('GRANT %I TO %I', role, current_user);
        EXCEPTION WHEN insufficient_privilege THEN
            IF NOT pg_has_role(current_user, role, 'MEMBER') THEN
                RAISE EXCEPTION 'the user % is no member of %: as a superuser, run GRANT % TO %', current_user, role, role, current_user;
            END IF;
        END;
    END LOOP;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO plinth_app, plinth_system', current_schema());
END
$$;

-- plinth_isolate is the one line that every table of a domain needs: plinth_app sees and writes the rows of the tenant that
-- its transaction has set, and no row where none is set; plinth_system sees all.
CREATE FUNCTION plinth_isolate(isolated regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE POLICY tenant ON %s TO plinth_app USING (tenant = (SELECT current_setting(''plinth.tenant'', true)))', isolated);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO plinth_app', isolated);
    PERFORM plinth_system_only(isolated);
END
$$;

-- plinth_system_only is for a table that no tenant reads.
CREATE FUNCTION plinth_system_only(isolated regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE POLICY system ON %s TO plinth_system USING (true)', isolated);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO plinth_system', isolated);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', isolated);
END
$$;
-- +goose StatementEnd

SELECT plinth_isolate(name::regclass) FROM unnest(ARRAY ['queues', 'queue_bindings', 'queue_rates', 'message_waiting',
    'message_keys', 'message_handled', 'dead_letters', 'dead_letter_operations', 'dead_letter_operation_items']) AS t (name);
SELECT plinth_system_only(name::regclass) FROM unnest(ARRAY ['broker_queues', 'broker_messages', 'broker_bindings']) AS t (name);

CREATE TABLE tenants (
    name         text        PRIMARY KEY,
    display_name text        NOT NULL DEFAULT '',
    disabled     boolean     NOT NULL DEFAULT false,
    rate_limit   text        NOT NULL DEFAULT '', -- as in 100/s; empty is the service's default
    quotas       jsonb       NOT NULL DEFAULT '{}', -- those that differ from the service's defaults
    created_at   timestamptz NOT NULL DEFAULT now()
);
INSERT INTO tenants (name) VALUES ('default');

CREATE TABLE api_keys (
    id           uuid        PRIMARY KEY,
    tenant       text        NOT NULL REFERENCES tenants ON DELETE CASCADE,
    hash         bytea       NOT NULL UNIQUE, -- SHA-256 of the whole key
    display_name text        NOT NULL,
    prefix       text        NOT NULL,
    scopes       text[]      NOT NULL,
    rate_limit   text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL DEFAULT 'infinity',
    revoked_at   timestamptz NOT NULL DEFAULT 'infinity',
    last_used_at timestamptz
);
CREATE INDEX ON api_keys (tenant, id);

-- What every process asks for several times a second: whether anything changed in the two tables above. Whoever changes
-- them counts it up, and waits for the row, so these changes commit in the order of their numbers.
CREATE TABLE tenant_changes (n bigint NOT NULL);
INSERT INTO tenant_changes VALUES (0);

SELECT plinth_system_only(name::regclass) FROM unnest(ARRAY ['tenants', 'api_keys', 'tenant_changes']) AS t (name);
