-- +goose Up

-- What tells this database from any other, on servers that outlive it. Its one row is written when it is first asked for, so that a
-- database that was made from a template has its own; one that was restored from a backup has the one of before.
CREATE TABLE identities (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id       uuid    NOT NULL DEFAULT gen_random_uuid()
);
SELECT plinth_system_only('identities');
