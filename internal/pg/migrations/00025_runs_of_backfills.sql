-- +goose Up

-- No statement needs it, and the planner took it for that of the runs that are queued: to look for the next one read all runs of a backfill.
DROP INDEX schedule_runs_backfill;
