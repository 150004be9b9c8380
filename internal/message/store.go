package message

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// insertQueue fills in the queue's row. created is false when there is one already.
func insertQueue(ctx context.Context, db pg.Querier, q *Queue) (created bool, err error) {
	err = db.QueryRow(ctx, `INSERT INTO queues (tenant, name) VALUES ($1, $2)
		ON CONFLICT (tenant, name) DO NOTHING RETURNING created_at`, tenant, q.Name.name).Scan(&q.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// lockQueue keeps a queue from being deleted until the transaction ends.
func lockQueue(ctx context.Context, db pg.Querier, name QueueName) (known bool, err error) {
	err = db.QueryRow(ctx, `SELECT true FROM queues WHERE tenant = $1 AND name = $2 FOR SHARE`, tenant, name.name).Scan(&known)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return known, err
}

func selectQueue(ctx context.Context, db pg.Querier, name QueueName) (Queue, error) {
	q := Queue{Name: name}
	err := db.QueryRow(ctx, `SELECT created_at FROM queues WHERE tenant = $1 AND name = $2`, tenant, name.name).Scan(&q.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Queue{}, errNoQueue(name)
	}
	return q, err
}

func selectQueues(ctx context.Context, db pg.Querier, after string, limit int) ([]Queue, error) {
	rows, err := db.Query(ctx, `SELECT name, created_at FROM queues
		WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3`, tenant, after, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (q Queue, err error) {
		err = row.Scan(&q.Name.name, &q.CreatedAt)
		return q, err
	})
}

func deleteQueue(ctx context.Context, db pg.Querier, name QueueName) (deleted bool, err error) {
	tag, err := db.Exec(ctx, `DELETE FROM queues WHERE tenant = $1 AND name = $2`, tenant, name.name)
	return tag.RowsAffected() == 1, err
}
