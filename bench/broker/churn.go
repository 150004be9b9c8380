package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"plinth/internal/broker"
)

// churn has messages come to the small queue and go, beside the large one, and prints how long that takes and what becomes of the table.
func churn(ctx context.Context, out io.Writer, owner *pgxpool.Pool, b broker.Broker, s sizes) error {
	var autovacuum string
	if err := owner.QueryRow(ctx, `SHOW autovacuum`).Scan(&autovacuum); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d messages a second come and go for %v; autovacuum is %s\n\n"+
		"| after | publish p50 ms | p99 ms | deliver p50 ms | p99 ms | table MiB | indexes MiB | dead rows | vacuums |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n", s.rate, s.churn, autovacuum)
	ctx, cancel := context.WithTimeout(ctx, s.churn+s.report/2)
	defer cancel()
	var mu sync.Mutex
	var published, delivered []time.Duration
	sent := map[string]time.Time{}
	sub, err := b.Subscribe(ctx, small, 100)
	if err != nil {
		return err
	}
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	working.Go(func() {
		defer sub.Close()
		for {
			d, err := sub.Receive(ctx)
			if err != nil {
				return
			}
			mu.Lock()
			if at, is := sent[d.ID]; is {
				delivered = append(delivered, time.Since(at))
				delete(sent, d.ID)
			}
			mu.Unlock()
			working.Go(func() { _ = d.Ack(ctx) })
		}
	})
	working.Go(func() {
		each := time.NewTicker(time.Second / time.Duration(s.rate))
		defer each.Stop()
		for {
			select {
			case <-each.C:
			case <-ctx.Done():
				return
			}
			working.Go(func() {
				m := newMessage()
				began := time.Now()
				mu.Lock()
				sent[m.ID] = began
				mu.Unlock()
				if b.Publish(ctx, broker.Address{Queue: small}, m) == nil {
					mu.Lock()
					published = append(published, time.Since(began))
					mu.Unlock()
				}
			})
		}
	})
	began := time.Now()
	for after := s.report; after <= s.churn; after += s.report {
		select {
		case <-time.After(time.Until(began.Add(after))):
		case <-ctx.Done():
			return ctx.Err()
		}
		var table, indexes float64
		var dead, vacuums int64
		err := owner.QueryRow(ctx, `SELECT pg_table_size('broker_messages') / 1048576.0::float8, pg_indexes_size('broker_messages') / 1048576.0::float8,
			n_dead_tup, autovacuum_count FROM pg_stat_user_tables WHERE relname = 'broker_messages'`).Scan(&table, &indexes, &dead, &vacuums)
		if err != nil {
			return err
		}
		mu.Lock()
		fmt.Fprintf(out, "| %v | %s | %s | %.1f | %.1f | %d | %d |\n", after, quantiles(published), quantiles(delivered), table, indexes, dead, vacuums)
		published, delivered = nil, nil
		mu.Unlock()
	}
	return nil
}
