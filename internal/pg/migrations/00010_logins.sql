-- +goose Up

-- Before PostgreSQL 15 everyone may create objects in the schema public.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', current_schema());
END
$$;
-- +goose StatementEnd

-- A login that owns nothing may ask for the version of the schema, and one that is a member of plinth_system may read all that
-- a backup has.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %I TO plinth_system', current_schema());
    EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON SEQUENCES TO plinth_system', current_schema());
END
$$;
-- +goose StatementEnd
GRANT SELECT ON goose_db_version TO plinth_app, plinth_system;
