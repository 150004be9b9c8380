-- +goose Up

-- A message that was pulled is a row with a lease, which is due when the lease is over. The lease is set when the row is inserted, and
-- never changes. Such rows are counted by themselves: they are outstanding, and take nothing from what may wait.
ALTER TABLE message_waiting ADD COLUMN lease uuid;

-- What streams and handlers held at the end of the bucket.
ALTER TABLE queue_rates ADD COLUMN outstanding bigint NOT NULL DEFAULT 0;

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION plinth_count_waiting_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tenant_usage_deltas (tenant, resource, n)
    SELECT tenant, CASE WHEN lease IS NULL THEN 'waiting_messages' ELSE 'pulled_messages' END,
        CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
    FROM changed GROUP BY 1, 2;
    RETURN NULL;
END $$;
-- +goose StatementEnd
