package message_test

import (
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"plinth/internal/message"
	"plinth/internal/pg"
)

// TestRetention has rows on both sides of each limit.
func TestRetention(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	short, long := name(t, "short"), name(t, "long")
	for q, retention := range map[message.QueueName]time.Duration{short: time.Minute, long: time.Hour} {
		if _, err := f.CreateQueue(within(t), q, message.Policy{DeadLetterRetention: retention}); err != nil {
			t.Fatal(err)
		}
	}
	f.letter(t, short, "young", time.Now().Add(-50*time.Second), 1)
	f.letter(t, short, "old", time.Now().Add(-70*time.Second), 1)
	f.letter(t, long, "young", time.Now().Add(-50*time.Minute), 1)
	f.letter(t, long, "old", time.Now().Add(-61*time.Minute), 1)
	for what, age := range map[string][4]string{
		"young": {"23 hours", "13 days", "50 minutes", "9 minutes"}, "old": {"25 hours", "15 days", "70 minutes", "11 minutes"},
	} {
		f.exec(t, `INSERT INTO message_keys VALUES ('default', 'orders', $1, gen_random_uuid(), now() - $2::text::interval)`, what, age[0])
		f.exec(t, `INSERT INTO message_handled VALUES ('default', $1, gen_random_uuid(), now() - $2::text::interval)`, what, age[1])
		for _, state := range []string{"planned", "running", "done"} {
			f.exec(t, `INSERT INTO dead_letter_operations (tenant, id, kind, queue, state, principal, max_per_second, total, created_at)
				VALUES ('default', gen_random_uuid(), 'purge', $1, $2, '', 0, 0, now() - $3::text::interval)`, what, state, age[2])
		}
		f.exec(t, `INSERT INTO queue_rates VALUES ('default', $1, now() - $2::text::interval, 1, 1, 1)`, what, age[3])
	}
	f.exec(t, `UPDATE dead_letter_operations SET ended_at = now() - interval '1 day' * CASE queue WHEN 'old' THEN 91 ELSE 89 END WHERE state = 'done'`)
	f.exec(t, `INSERT INTO dead_letter_operation_items SELECT tenant, id, 1, gen_random_uuid() FROM dead_letter_operations`)
	if err := f.Sweep(within(t)); err != nil {
		t.Error(err)
	}
	for what, test := range map[string]struct {
		sql  string
		want int
	}{
		"dead letters":     {`SELECT count(*) FROM dead_letters`, 2},
		"old dead letters": {`SELECT count(*) FROM dead_letters WHERE reason = 'old'`, 0},
		"keys":             {`SELECT count(*) FROM message_keys`, 1},
		"old keys":         {`SELECT count(*) FROM message_keys WHERE key = 'old'`, 0},
		"handled":          {`SELECT count(*) FROM message_handled`, 1},
		"old handled":      {`SELECT count(*) FROM message_handled WHERE consumer = 'old'`, 0},
		"operations":       {`SELECT count(*) FROM dead_letter_operations`, 4},
		"old operations":   {`SELECT count(*) FROM dead_letter_operations WHERE queue = 'old' AND state <> 'running'`, 0},
		"items":            {`SELECT count(*) FROM dead_letter_operation_items`, 4},
		"rates":            {`SELECT count(*) FROM queue_rates`, 1},
		"old rates":        {`SELECT count(*) FROM queue_rates WHERE queue = 'old'`, 0},
	} {
		if n := f.count(t, test.sql); n != test.want {
			t.Errorf("%s: %d, want %d", what, n, test.want)
		}
	}
	if n := f.logs.FilterLevelExact(1).Len(); n != 0 {
		t.Errorf("%d warnings", n)
	}
}

// TestSweepsAtTheSameTime removes more than one batch has, and leaves what somebody else has locked.
func TestSweepsAtTheSameTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.exec(t, `INSERT INTO message_keys SELECT 'default', 'orders', i, gen_random_uuid(), now() - interval '2 days' FROM generate_series(1, 4500) i`)
	q := f.queue(t, "orders")
	f.letters(t, q, 3500)
	f.exec(t, `UPDATE dead_letters SET last_failed_at = last_failed_at - interval '40 days'`)
	err := f.db.InTx(within(t), func(tx *pg.Tx) error {
		if _, err := tx.Exec(within(t), `SELECT FROM message_keys WHERE key = '7' FOR UPDATE`); err != nil {
			return err
		}
		var group errgroup.Group
		for range 3 {
			group.Go(func() error { return f.Sweep(within(t)) })
		}
		return group.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	f.holds(t, q, 0, 0)
	if err := f.Sweep(within(t)); err != nil {
		t.Error(err)
	}
	if n := f.count(t, `SELECT count(*) FROM message_keys`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}
