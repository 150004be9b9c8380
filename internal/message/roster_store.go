package message

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// tellWorker writes that a worker is there, and returns whether it was not before, and all that told within lapse, itself included.
func tellWorker(ctx context.Context, system *pg.System, id uuid.UUID, handlers []string, lapse time.Duration) (came bool, all []member, err error) {
	if handlers == nil {
		handlers = []string{}
	}
	rows, err := system.Query(ctx, `
		WITH told AS (
			INSERT INTO message_workers (id, handlers) VALUES ($1::text::uuid, $2)
			ON CONFLICT (id) DO UPDATE SET seen_at = now() RETURNING id, handlers, xmax = 0 AS came
		)
		SELECT id::text, handlers, came FROM told
		UNION ALL SELECT id::text, handlers, false FROM message_workers WHERE seen_at > now() - $3::interval AND id <> $1::text::uuid
		ORDER BY 1`, id.String(), handlers, lapse)
	if err != nil {
		return false, nil, err
	}
	all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m member, err error) {
		var id string
		var new bool
		if err = row.Scan(&id, &m.handlers, &new); err == nil {
			came = came || new
			err = m.id.UnmarshalText([]byte(id))
		}
		return m, err
	})
	return came, all, err
}

func deleteWorker(ctx context.Context, system *pg.System, id uuid.UUID) error {
	_, err := system.Exec(ctx, `DELETE FROM message_workers WHERE id = $1::text::uuid`, id.String())
	return err
}
