-- +goose Up

-- Backfills: fire times of a range that somebody asked to be run. All of their runs are made at once; those that are queued wait for
-- their turn, and count as runs of the schedule that are under way only from then on.
CREATE TABLE schedule_backfills (
    tenant         text        NOT NULL,
    id             uuid        NOT NULL,
    schedule_id    uuid        NOT NULL,
    version        bigint      NOT NULL, -- of the definition
    start_at       timestamptz NOT NULL,
    end_at         timestamptz NOT NULL, -- the first moment after it
    overlap        text        NOT NULL,
    max_concurrent integer     NOT NULL,
    runs           integer     NOT NULL,
    principal      text        NOT NULL,
    created_at     timestamptz NOT NULL,
    cancelled_by   text        NOT NULL DEFAULT '',
    ended_at       timestamptz, -- when its last run had begun and ended; NULL before
    PRIMARY KEY (tenant, id)
);
CREATE INDEX ON schedule_backfills (tenant, schedule_id) WHERE ended_at IS NULL;
CREATE INDEX ON schedule_backfills (created_at);
SELECT plinth_isolate('schedule_backfills');

ALTER TABLE schedules
    ADD COLUMN backfills    integer NOT NULL DEFAULT 0,  -- that have not ended
    ADD COLUMN time_zone    text    NOT NULL DEFAULT '', -- of the definition, for SQL; '' is UTC
    ADD COLUMN zone_version text    NOT NULL DEFAULT ''; -- of the rules of the zone that next_fire_at was computed by
CREATE INDEX schedules_zone ON schedules (time_zone, zone_version) WHERE time_zone <> '';

ALTER TABLE schedule_runs ADD COLUMN queued boolean NOT NULL DEFAULT false; -- waits for its turn in its backfill
DROP INDEX schedule_runs_active;
CREATE INDEX schedule_runs_active ON schedule_runs (tenant, schedule_id, n) WHERE state IN ('claimed', 'running') AND NOT queued;
CREATE INDEX schedule_runs_queue ON schedule_runs (tenant, backfill_id, n) WHERE queued;
CREATE INDEX schedule_runs_backfill ON schedule_runs (tenant, backfill_id, n) WHERE backfill_id IS NOT NULL;

SET LOCAL ROLE plinth_system;
UPDATE schedules SET time_zone = coalesce(definition ->> 'time_zone', '') WHERE definition ->> 'time_zone' <> '';
RESET ROLE;
