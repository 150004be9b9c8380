package postgres

import (
	"context"

	"plinth/internal/broker"
)

// Browse implements broker.Broker.
func (b *Broker) Browse(ctx context.Context, queue string, behind int64, limit, bytes int) ([]broker.Browsed, bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	id, err := findQueue(ctx, b.db, queue)
	if err != nil {
		return nil, false, away(err)
	}
	list, more, err := browseMessages(ctx, b.db, id, behind, limit, bytes)
	return list, more, away(err)
}
