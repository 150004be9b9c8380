-- +goose Up

-- Whether a dead letter is part of an operation is looked up for each that another one chooses.
CREATE INDEX ON dead_letter_operation_items (tenant, dead_letter_id);

SELECT plinth_count('message_keys', 'idempotency_keys');
SELECT plinth_count('dead_letter_operation_items', 'operation_items');
