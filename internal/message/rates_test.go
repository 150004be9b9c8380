package message_test

import (
	"testing"

	"plinth/internal/auth"
	"plinth/internal/message"
)

// TestRates has two processes count and end. Their counts must stay.
func TestRates(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.queue(t, "idle")
	for range 2 {
		process := f.process(t, message.Limits{})
		stop := run(t, process.Run)
		process.Count(auth.DefaultTenant, q, 30, 60, 90)
		stop()
	}
	if got, err := f.GetQueue(within(t), q); err != nil || got.Stats.Rates != (message.Rates{Published: 1, Delivered: 2, Acknowledged: 3}) {
		t.Errorf("%+v %v", got.Stats, err)
	}
	f.exec(t, `UPDATE queue_rates SET bucket = bucket - interval '70 seconds'`)
	if got, err := f.GetQueue(within(t), q); err != nil || got.Stats.Rates != (message.Rates{}) {
		t.Errorf("more than a minute later: %+v %v", got.Stats, err)
	}
	if n := f.count(t, `SELECT count(*) FROM queue_rates WHERE queue = 'idle'`); n != 0 {
		t.Errorf("%d rows for a queue that nothing went through", n)
	}
}

// TestRatesAreWrittenInTime waits for the end of a bucket.
func TestRatesAreWrittenInTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.Count(auth.DefaultTenant, q, 60, 0, 0)
	eventually(t, "counts are written", func() bool {
		got, err := f.GetQueue(within(t), q)
		return err == nil && got.Stats.Rates.Published == 1
	})
}
