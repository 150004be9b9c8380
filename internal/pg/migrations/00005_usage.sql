-- +goose Up

-- Work that one process of the cluster does once in an interval, with the time when it is due.
CREATE TABLE periodic (
    name   text        PRIMARY KEY,
    due_at timestamptz NOT NULL
);
SELECT plinth_system_only('periodic');
