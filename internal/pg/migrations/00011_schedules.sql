-- +goose Up

-- Schedules, with when they fire next. What can be set of one is its definition, which the service alone reads.
CREATE TABLE schedules (
    tenant          text        NOT NULL,
    name            text        NOT NULL,
    id              uuid        NOT NULL, -- tells a schedule from those of its name before and after it
    version         bigint      NOT NULL DEFAULT 1, -- of the definition
    definition      json        NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    updated_by      text        NOT NULL,
    next_fire_at    timestamptz, -- NULL is never
    next_due_at     timestamptz, -- when to look at next_fire_at; NULL while the schedule is paused
    last_fire_at    timestamptz, -- the latest fire time that was claimed: none that is not later is claimed again
    remaining_runs  bigint,      -- NULL is no limit
    paused_at       timestamptz,
    pause_note      text        NOT NULL DEFAULT '',
    paused_by       text        NOT NULL DEFAULT '',
    resumed_at      timestamptz,
    runs            bigint      NOT NULL DEFAULT 0, -- numbers them
    fired           bigint      NOT NULL DEFAULT 0,
    skipped         bigint      NOT NULL DEFAULT 0,
    missed          bigint      NOT NULL DEFAULT 0,
    dropped         bigint      NOT NULL DEFAULT 0,
    failed          bigint      NOT NULL DEFAULT 0,
    failures        integer     NOT NULL DEFAULT 0, -- of runs, one after the other
    last_success_at timestamptz,
    faults          integer     NOT NULL DEFAULT 0, -- of the service with this schedule, one after the other
    fault           text        NOT NULL DEFAULT '',
    pause_after     integer     NOT NULL DEFAULT 0, -- failures; these come from the definition, for SQL
    run_max_age     interval    NOT NULL,
    run_max_count   integer     NOT NULL,
    late_after      interval,
    no_success_for  interval,
    late_alert_at   timestamptz, -- when that was told; NULL once it is well
    success_alert_at timestamptz, -- likewise
    PRIMARY KEY (tenant, name),
    UNIQUE (tenant, id)
);
CREATE INDEX ON schedules (next_due_at) WHERE next_due_at IS NOT NULL;
CREATE INDEX schedules_tenant_due ON schedules (tenant, next_due_at) WHERE next_due_at IS NOT NULL;
CREATE INDEX schedules_alert ON schedules (tenant) WHERE late_after IS NOT NULL OR no_success_for IS NOT NULL;

-- What became of fire times. The unique index is what makes each of them fire once, however many workers there are.
CREATE TABLE schedule_runs (
    tenant       text        NOT NULL,
    id           uuid        NOT NULL,
    schedule_id  uuid        NOT NULL,
    n            bigint      NOT NULL, -- numbers the runs of a schedule
    trigger      text        NOT NULL,
    fire_at      timestamptz NOT NULL,
    due_at       timestamptz NOT NULL,
    planned      boolean     NOT NULL, -- the fire time is one that the schedule planned
    state        text        NOT NULL,
    attempt      integer     NOT NULL DEFAULT 0,
    version      bigint      NOT NULL, -- of the definition
    action       text        NOT NULL,
    job          text        NOT NULL DEFAULT '',
    next_at      timestamptz, -- of a claimed run, when it starts, NULL while it waits for others; of a running one, when its lease ends
    token        bigint      NOT NULL DEFAULT 0, -- of the attempt
    losses       integer     NOT NULL DEFAULT 0, -- of its workers
    cancelled    boolean     NOT NULL DEFAULT false, -- somebody asked for that while it ran
    arguments    json,
    skip_reason  text        NOT NULL DEFAULT '',
    missed_count bigint      NOT NULL DEFAULT 0,
    missed_until timestamptz,
    message_id   text        NOT NULL DEFAULT '',
    http_status  integer     NOT NULL DEFAULT 0,
    http_body    bytea,
    worker       text        NOT NULL DEFAULT '',
    started_at   timestamptz,
    ended_at     timestamptz,
    error        text        NOT NULL DEFAULT '',
    log          json,
    log_cut      boolean     NOT NULL DEFAULT false,
    backfill_id  uuid,
    PRIMARY KEY (tenant, id)
);
CREATE UNIQUE INDEX schedule_runs_fire ON schedule_runs (tenant, schedule_id, fire_at) WHERE planned;
CREATE INDEX schedule_runs_n ON schedule_runs (tenant, schedule_id, n);
CREATE INDEX schedule_runs_active ON schedule_runs (tenant, schedule_id, n) WHERE state IN ('claimed', 'running');
CREATE INDEX schedule_runs_next ON schedule_runs (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX schedule_runs_tenant_next ON schedule_runs (tenant, next_at) WHERE next_at IS NOT NULL;

-- Fencing tokens: each attempt has a larger one than all before it.
CREATE SEQUENCE schedule_run_tokens;
GRANT USAGE ON SEQUENCE schedule_run_tokens TO plinth_app, plinth_system;

-- Who changed what. The definitions are also those of runs of earlier versions.
CREATE TABLE schedule_changes (
    tenant      text        NOT NULL,
    id          uuid        NOT NULL,
    schedule    text        NOT NULL,
    schedule_id uuid        NOT NULL,
    kind        text        NOT NULL,
    principal   text        NOT NULL,
    changed_at  timestamptz NOT NULL,
    note        text        NOT NULL DEFAULT '',
    version     bigint      NOT NULL,
    fields      text[]      NOT NULL DEFAULT '{}',
    definition  json, -- from then on; NULL if it stays
    PRIMARY KEY (tenant, id)
);
CREATE INDEX ON schedule_changes (tenant, schedule, id);
CREATE INDEX ON schedule_changes (changed_at);
CREATE INDEX schedule_changes_deleted ON schedule_changes (changed_at) WHERE kind = 'delete';
CREATE UNIQUE INDEX schedule_changes_version ON schedule_changes (tenant, schedule_id, version) WHERE definition IS NOT NULL;

-- Keys that make triggering again harmless for 24 hours.
CREATE TABLE schedule_trigger_keys (
    tenant      text        NOT NULL,
    schedule_id uuid        NOT NULL,
    key         text        NOT NULL,
    run_id      uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, schedule_id, key)
);
CREATE INDEX ON schedule_trigger_keys (created_at);

-- Runs of the last 24 hours, for the quota: a row for each transaction that made some.
CREATE TABLE schedule_run_counts (
    tenant     text        NOT NULL,
    n          bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON schedule_run_counts (created_at);

SELECT plinth_isolate(name::regclass) FROM unnest(ARRAY ['schedules', 'schedule_runs', 'schedule_changes', 'schedule_trigger_keys',
    'schedule_run_counts']) AS t (name);
SELECT plinth_count('schedules', 'schedules');
SELECT plinth_count('schedule_run_counts', 'runs_per_day', 'n');
