package message_test

import (
	"strings"
	"testing"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// TestQuotaOfKeys publishes with more keys than are allowed. A message that is refused leaves no key.
func TestQuotaOfKeys(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{Keys: 2})
	q := f.queue(t, "orders")
	publish := func(key string) (message.Receipt, error) {
		return f.Publish(within(t), message.Publication{To: message.ToQueue(q), Delay: time.Hour, IdempotencyKey: key, Body: []byte(key)})
	}
	for _, key := range []string{"a", "b", "a"} {
		if _, err := publish(key); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	if _, err := publish("c"); !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), "24 hours") {
		t.Errorf("a key above the quota: %v", err)
	}
	if r, err := publish("b"); err != nil || !r.Duplicate {
		t.Errorf("a key that was used: %+v %v", r, err)
	}
	f.batchOf(t, q, "d", errs.ResourceExhausted)
	if n := f.count(t, `SELECT count(*) FROM message_keys`); n != 2 {
		t.Errorf("%d keys", n)
	}
}

// batchOf publishes the same twice in a transaction that is committed, and wants both refused.
func (f fixture) batchOf(t *testing.T, q message.QueueName, key string, want errs.Kind) {
	t.Helper()
	p := message.TenantPublication{Tenant: "default", Publication: message.Publication{To: message.ToQueue(q), IdempotencyKey: key}}
	err := f.system.InTx(within(t), func(tx *pg.Tx) error {
		results, err := f.PublishBatchTx(within(t), tx, []message.TenantPublication{p, p})
		for _, r := range results {
			if !errs.Is(r.Err, want) {
				t.Errorf("in a batch: %+v", r)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRefusedMessageFreesItsKey has a batch refused for another quota.
func TestRefusedMessageFreesItsKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{Waiting: 1})
	q := f.queue(t, "orders")
	f.exec(t, `INSERT INTO tenant_usage (tenant, resource, n) VALUES ('default', 'waiting_messages', 5)
		ON CONFLICT (tenant, resource) DO UPDATE SET n = 5`)
	f.batchOf(t, q, "a", errs.ResourceExhausted)
	if n := f.count(t, `SELECT count(*) FROM message_keys`); n != 0 {
		t.Errorf("%d keys", n)
	}
}

// TestQuotaOfOperationItems chooses more dead letters than are allowed.
func TestQuotaOfOperationItems(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.Service = f.process(t, message.Limits{Items: 25})
	q := f.queue(t, "orders")
	ids := f.letters(t, q, 20)
	dry := message.Choice{Filter: &message.Filter{}, DryRun: true}
	if _, _, err := f.PurgeDeadLetters(within(t), q, dry); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.PurgeDeadLetters(within(t), q, dry); !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), "dry runs") {
		t.Errorf("above the quota: %v", err)
	}
	if _, _, err := f.PurgeDeadLetters(within(t), q, message.Choice{IDs: ids[:6]}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("by ids above the quota: %v", err)
	}
	if op, _, err := f.PurgeDeadLetters(within(t), q, message.Choice{IDs: ids[:5]}); err != nil || op.Done != 5 {
		t.Errorf("within the quota: %+v %v", op, err)
	}
}
