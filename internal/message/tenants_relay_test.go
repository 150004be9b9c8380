package message_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// TestRelayOfTwoTenants relays one batch with messages of both tenants, to queues and topics of the same names.
func TestRelayOfTwoTenants(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	bothTenants(t, f.fixture)
	q := name(t, "plain")
	for _, tenant := range []string{"a", "b"} {
		f.queueAs(t, tenant, "plain", message.Policy{})
		for _, queue := range []string{"orders", "plain"} { // The relay has to declare them again.
			if err := f.broker.Delete(within(t), tenant+"."+queue); err != nil {
				t.Fatal(err)
			}
		}
	}
	batches := make(chan int, 100)
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		batches <- len(batch)
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	want := map[string]map[string]int{"a": {}, "b": {}}
	for range 5 {
		for tenant, ids := range want {
			err := f.db.InTx(as(t, tenant), func(tx *pg.Tx) error {
				for _, p := range []message.Publication{to(q, tenant), {To: topic(t, "news", "x"), Body: []byte(tenant)}} {
					receipt, err := f.PublishTx(as(t, tenant), tx, p)
					if err != nil {
						return err
					}
					ids[receipt.ID]++
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	f.relay(t)
	f.drained(t)
	if n := <-batches + <-batches; n != 20 { // Those to topics go last, since their queues have to be declared.
		t.Errorf("the first batch has %d messages", n)
	}
	if n := f.logs.FilterMessage("messages not sent, trying again").Len(); n != 0 {
		t.Error("some were not sent at once")
	}
	for tenant, ids := range want {
		got := map[string]int{}
		for _, queue := range []string{"orders", "plain"} {
			deliveries := f.rawOf(t, tenant, queue)
			for range len(ids) / 2 {
				d := take(t, deliveries)
				got[d.ID]++
				if string(d.Body) != tenant || d.Headers["tenant"] != tenant {
					t.Errorf("%q came to %s, headers %v", d.Body, tenant, d.Headers)
				}
			}
			empty(t, deliveries)
		}
		if !maps.Equal(got, ids) {
			t.Errorf("%s got %v, want %v", tenant, got, ids)
		}
	}
}

// TestTroublesOfOneTenant has a full queue, a message that is refused, and a deleted queue, all of tenant b. They must not
// affect tenant a.
func TestTroublesOfOneTenant(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := bothTenants(t, f.fixture)
	small := f.queueAs(t, "b", "small", message.Policy{MaxLength: 1, Bindings: onNews.Bindings})
	f.publishAs(t, "b", to(small, "fills it"))
	gone := f.queueAs(t, "b", "gone", message.Policy{})
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		outcomes := f.trouble.Broker.PublishBatch(ctx, batch)
		for i, p := range batch {
			if string(p.Body) == "refused" {
				outcomes[i] = errs.New(errs.InvalidArgument, "never this one")
			}
		}
		return outcomes
	})
	later := func(tenant string, p message.Publication) string {
		p.Delay = 1
		return f.publishAs(t, tenant, p)
	}
	later("b", to(gone, "dropped"))
	f.exec(t, `DELETE FROM queues WHERE name = 'gone'`)
	if err := f.broker.Delete(within(t), "b.gone"); err != nil {
		t.Fatal(err)
	}
	refused := later("b", to(q, "refused"))
	news := message.Publication{To: topic(t, "news", "x"), Body: []byte("news")}
	fanned, fine := later("b", news), later("a", news)
	f.relay(t)
	if d := take(t, f.rawOf(t, "a", "orders")); d.ID != fine {
		t.Errorf("a got %s", d.ID)
	}
	eventually(t, "the full queue's copy waits alone", func() bool {
		m, err := f.GetMessage(as(t, "b"), fanned)
		return err == nil && m.Queue == small && f.waiting(t) == 1
	})
	if _, err := f.GetMessage(as(t, "a"), fanned); !errs.Is(err, errs.NotFound) {
		t.Errorf("a finds what waits for b: %v", err)
	}
	letters, _, err := f.ListDeadLetters(as(t, "b"), q, message.Filter{}, 0, "")
	if err != nil || len(letters) != 1 || letters[0].MessageID != refused {
		t.Errorf("%+v %v", letters, err)
	}
	if n := f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant <> 'b'`); n != 0 {
		t.Errorf("%d dead letters of others", n)
	}
	for _, said := range []string{"message refused by the broker", "message dropped with its queue, which was deleted", "messages not sent, trying again"} {
		if line := f.line(t, said); line["tenant"] != "b" {
			t.Errorf("%s: %v", said, line)
		}
	}
}

// TestRedrivesOfTenants redrives dead letters of both tenants in queues of the same name; a has more than one step does.
func TestRedrivesOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	const many = 1001
	left := func(tenant string, letters, waiting int) {
		t.Helper()
		got, err := f.GetQueue(as(t, tenant), q)
		if err != nil || got.Stats.DeadLetters != int64(letters) || got.Stats.Waiting != int64(waiting) {
			t.Errorf("%s has %+v %v, want %d dead letters and %d messages that wait", tenant, got.Stats, err, letters, waiting)
		}
	}
	ids := f.lettersOf(t, "a", q, many)
	f.lettersOf(t, "b", q, many)
	// With the ids of another tenant.
	op, skipped, err := f.PurgeDeadLetters(as(t, "b"), q, message.Choice{IDs: ids[:2]})
	if err != nil || op.Total != 0 || skipped.NotFound != 2 {
		t.Errorf("%+v %+v %v", op, skipped, err)
	}
	// With the token of another tenant.
	dry := message.Choice{Filter: &message.Filter{}, DryRun: true}
	plan, _, err := f.RedriveDeadLetters(as(t, "a"), q, dry, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.RedriveDeadLetters(as(t, "b"), q, message.Choice{Token: plan.ID}, 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("b with a's token: %v", err)
	}
	left("a", many, 0)
	left("b", many, 0)
	// In the background, at the same time.
	who := auth.With(within(t), &auth.Principal{ID: "key:7", Tenant: auth.Tenant{Name: "a"}})
	redrive, _, err := f.RedriveDeadLetters(who, q, message.Choice{Token: plan.ID}, 0)
	if err != nil || redrive.State != message.Running || redrive.Principal != "key:7" {
		t.Errorf("%+v %v", redrive, err)
	}
	purge, _, err := f.PurgeDeadLetters(as(t, "b"), q, all)
	if err != nil || purge.State != message.Running || purge.Principal != "service" {
		t.Errorf("%+v %v", purge, err)
	}
	if progress, err := f.StepAll(t.Context()); !progress || err != nil {
		t.Fatalf("%v %v", progress, err)
	}
	left("a", many-200, 200)
	left("b", many-200, 0)
	f.work(t)
	left("a", 0, many)
	left("b", 0, 0)
	if op, err := f.GetDeadLetterOperation(as(t, "a"), redrive.ID); err != nil || op.Done != many || op.State != message.Done {
		t.Errorf("%+v %v", op, err)
	}
	if n := f.count(t, `SELECT count(*) FROM message_waiting WHERE tenant = 'a'`); n != many {
		t.Errorf("%d messages wait for a", n)
	}
}

// TestPurgesOfTenants purges the queue of one tenant, and deletes it. The other's stays.
func TestPurgesOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	for _, tenant := range []string{"a", "b"} {
		f.publishAs(t, tenant, to(q, "ready"))
		f.publishAs(t, tenant, message.Publication{To: message.ToQueue(q), Delay: time.Hour, IdempotencyKey: "k"})
		f.lettersOf(t, tenant, q, 2)
		f.exec(t, `INSERT INTO queue_rates VALUES ($1, 'orders', now() - interval '20 seconds', 0, 60, 60)`, tenant)
	}
	untouched := func(when string) {
		t.Helper()
		want := message.Stats{Depth: 1, Waiting: 1, DeadLetters: 2, Rates: message.Rates{Delivered: 1, Acknowledged: 1}}
		got, err := f.GetQueue(as(t, "a"), q)
		if err != nil {
			t.Fatal(err)
		}
		got.Stats.Rates.Published = 0 // It also counts what the test publishes, once a bucket of time is over.
		if *got.Stats != want {
			t.Errorf("after %s: a has %+v", when, got.Stats)
		}
	}
	if n, err := f.PurgeQueue(as(t, "b"), q); n != 2 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	untouched("a purge of b's queue")
	if op, _, err := f.PurgeDeadLetters(as(t, "b"), q, all); op.Done != 2 || err != nil {
		t.Errorf("%+v %v", op, err)
	}
	untouched("a purge of b's dead letters")
	if err := f.DeleteQueue(as(t, "b"), q); err != nil {
		t.Error(err)
	}
	untouched("the end of b's queue")
	if r, err := f.Publish(as(t, "a"), message.Publication{To: message.ToQueue(q), IdempotencyKey: "k"}); err != nil || !r.Duplicate {
		t.Errorf("a's key is forgotten: %+v %v", r, err)
	}
}

func TestPausesOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	other := f.another(t)
	subs := map[string][]*message.Subscription{}
	for _, tenant := range []string{"a", "b"} {
		subs[tenant] = []*message.Subscription{f.subscribeAs(t, tenant, q), other.subscribeAs(t, tenant, q)}
	}
	if got, err := f.PauseQueue(as(t, "a"), q); err != nil || !got.Paused {
		t.Fatalf("%+v %v", got, err)
	}
	if got, err := f.GetQueue(as(t, "b"), q); err != nil || got.Paused {
		t.Errorf("b: %+v %v", got, err)
	}
	<-time.After(time.Second) // After that it is in effect everywhere.
	for _, tenant := range []string{"a", "b"} {
		for range 10 {
			f.publishAs(t, tenant, to(q, tenant))
		}
	}
	for _, sub := range subs["a"] {
		nothing(t, sub)
	}
	got := 0
	for deadline := time.Now().Add(10 * time.Second); got < 10 && time.Now().Before(deadline); {
		for _, sub := range subs["b"] {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			batch, _ := sub.Next(ctx)
			cancel()
			got += len(batch)
		}
	}
	if got != 10 {
		t.Errorf("%d of 10 came to b", got)
	}
	subs["a"][1].Close()
	if _, err := f.ResumeQueue(as(t, "a"), q); err != nil {
		t.Fatal(err)
	}
	next(t, subs["a"][0])
}

func TestRatesOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	s := f.process(t, message.Limits{})
	stop := run(t, s.Run)
	s.Count("a", q, 60, 120, 180)
	s.Count("b", q, 600, 0, 0)
	stop()
	for tenant, want := range map[string]message.Rates{"a": {Published: 1, Delivered: 2, Acknowledged: 3}, "b": {Published: 10}} {
		if got, err := f.GetQueue(as(t, tenant), q); err != nil || got.Stats.Rates != want {
			t.Errorf("%s: %+v %v", tenant, got.Stats, err)
		}
	}
}

// TestCountsOfTenants checks the counts that a process reports of what it publishes and delivers for each tenant.
func TestCountsOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	s := f.process(t, message.Limits{})
	stop := run(t, s.Run)
	g := f
	g.Service = s
	g.publishAs(t, "a", to(q, "x"))
	g.PublishBatch(as(t, "a"), []message.Publication{to(q, "y")})
	g.publishAs(t, "a", message.Publication{To: message.ToQueue(q), Delay: time.Hour})
	g.publishAs(t, "b", to(q, "z"))
	sub := g.subscribeAs(t, "b", q)
	sub.Ack([]string{one(t, sub).ID})
	sub.Close()
	stop()
	var got string
	err := f.system.QueryRow(within(t), `SELECT string_agg(concat_ws(' ', tenant, queue, published, delivered, acknowledged), ', ' ORDER BY tenant)
		FROM (SELECT tenant, queue, sum(published) AS published, sum(delivered) AS delivered, sum(acknowledged) AS acknowledged
			FROM queue_rates GROUP BY 1, 2) AS r`).Scan(&got)
	if want := "a orders 3 0 0, b orders 1 1 1"; err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

func TestRetentionOfTenants(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queueAs(t, "a", "orders", message.Policy{DeadLetterRetention: time.Minute})
	f.queueAs(t, "b", "orders", message.Policy{DeadLetterRetention: time.Hour})
	for _, tenant := range []string{"a", "b"} {
		f.lettersOf(t, tenant, q, 3)
		f.exec(t, `INSERT INTO message_keys VALUES ($1, 'orders', 'k', gen_random_uuid(), now() - interval '2 days')`, tenant)
	}
	f.exec(t, `UPDATE dead_letters SET last_failed_at = now() - interval '2 minutes'`)
	f.Sweep(t.Context())
	for tenant, want := range map[string]int{"a": 0, "b": 3} {
		if n := f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant = $1`, tenant); n != want {
			t.Errorf("%s has %d dead letters", tenant, n)
		}
	}
	if n := f.count(t, `SELECT count(*) FROM message_keys`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

// TestOperationsOfTenantsDoNotHoldEachOtherUp has an operation of tenant a that cannot continue.
func TestOperationsOfTenantsDoNotHoldEachOtherUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := bothTenants(t, f)
	for _, tenant := range []string{"a", "b"} {
		f.lettersOf(t, tenant, q, 1001)
		if _, _, err := f.RedriveDeadLetters(as(t, tenant), q, all, 0); err != nil {
			t.Fatal(err)
		}
	}
	f.schema(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'`)
	f.schema(t, `CREATE TRIGGER refuse BEFORE INSERT ON message_waiting FOR EACH ROW WHEN (NEW.tenant = 'a') EXECUTE FUNCTION refuse()`)
	for range 7 {
		if _, err := f.StepAll(t.Context()); err == nil {
			t.Error("no error")
		}
	}
	if n := f.count(t, `SELECT count(*) FROM message_waiting WHERE tenant = 'b'`); n != 1001 {
		t.Errorf("%d of b's messages wait", n)
	}
}
