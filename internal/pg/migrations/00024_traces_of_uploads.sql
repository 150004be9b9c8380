-- +goose Up

-- The trace of the call that completed an upload, as W3C's traceparent and tracestate, until a worker has verified the file.
ALTER TABLE files
    ADD COLUMN trace_parent text, -- NULL is none
    ADD COLUMN trace_state  text;
