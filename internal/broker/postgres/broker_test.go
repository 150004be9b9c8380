package postgres

import (
	"context"
	"errors"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg/pgtest"
)

func TestAttributesAreKeptOrRefused(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	sub := subscribe(t, b, queue, 1)

	kept := message("kept")
	kept.Attributes = map[string]string{"nul": "a\x00b", "n\x00l": "", "html": "<&>\u2028", "replaced": "\ufffd"}
	if err := b.Publish(patient(t), broker.Address{Queue: queue}, kept); err != nil {
		t.Fatal(err)
	}
	d := receive(t, sub)
	if !maps.Equal(d.Attributes, kept.Attributes) {
		t.Errorf("attributes are %q, want %q", d.Attributes, kept.Attributes)
	}
	if err := d.Ack(patient(t)); err != nil {
		t.Error(err)
	}

	for _, attributes := range []map[string]string{{"broken": "\xff"}, {"broken\xff": ""}} {
		refused := message("refused")
		refused.Attributes = attributes
		err := b.Publish(patient(t), broker.Address{Queue: queue}, refused)
		if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "broken") {
			t.Errorf("%q: %v, want errs.InvalidArgument with the attribute's name", attributes, err)
		}
	}
	err := b.Publish(patient(t), broker.Address{Queue: queue}, broker.Message{ID: "one"})
	if !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("an id that is no UUID: %v, want errs.InvalidArgument", err)
	}
}

// A subscription that only polled would need half a second for each message.
func TestPublishWakesSubscriptions(t *testing.T) {
	t.Parallel()
	const messages = 20
	databaseURL := pgtest.New(t)
	b, _ := start(t, databaseURL, lease)
	other, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	sub := subscribe(t, other, queue, 1)
	publish(t, b, queue, "warm up")
	if err := receive(t, sub).Ack(patient(t)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range messages {
		publish(t, b, queue, "now")
		if err := receive(t, sub).Ack(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > messages*pollInterval/8 {
		t.Errorf("%d messages took %v", messages, took)
	}
}

// A notification may be lost; here none is ever sent.
func TestPollFindsWhatWasNotNotified(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.New(t)
	b, _ := start(t, databaseURL, lease)
	queue := declare(t, b)
	sub := subscribe(t, b, queue, 1)
	receiveNothing(t, sub, 100*time.Millisecond)
	silent := openDB(t, databaseURL).System()
	m := message("unheard")
	batch := []call[publication]{{value: publication{queue: queue, id: m.ID, headers: "{}", attributes: "{}", body: m.Body}}}
	if _, err := insertMessages(patient(t), silent, batch); err != nil {
		t.Fatal(err)
	}
	if d := receive(t, sub); d.ID != m.ID {
		t.Errorf("received %s, want %s", d.ID, m.ID)
	}
	if _, err := deleteQueue(patient(t), silent, queue); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.Receive(patient(t)); !errors.Is(err, broker.ErrNoQueue) {
		t.Errorf("Receive: %v, want ErrNoQueue", err)
	}
}

func TestDeleteLeavesNoMessageBehind(t *testing.T) {
	t.Parallel()
	b, _ := start(t, pgtest.New(t), lease)
	queue := declare(t, b)
	publishing, stop := context.WithCancel(t.Context())
	var publishers sync.WaitGroup
	for range 8 {
		publishers.Go(func() {
			for publishing.Err() == nil {
				err := b.Publish(t.Context(), broker.Address{Queue: queue}, message("racing"))
				if err != nil && !errors.Is(err, broker.ErrNoQueue) {
					t.Errorf("Publish: %v", err)
				}
			}
		})
	}
	for range 50 {
		if err := b.Delete(patient(t), queue); err != nil {
			t.Errorf("Delete: %v", err)
		}
		if err := b.Declare(patient(t), broker.Queue{Name: queue}); err != nil {
			t.Errorf("Declare: %v", err)
		}
	}
	stop()
	publishers.Wait()
	var orphans int
	err := b.db.QueryRow(patient(t), `SELECT count(*) FROM broker_messages m
		WHERE NOT EXISTS (SELECT FROM broker_queues q WHERE q.id = m.queue_id)`).Scan(&orphans)
	if err != nil || orphans != 0 {
		t.Errorf("%d messages are left without a queue (error %v)", orphans, err)
	}
}

func TestAwayDatabaseIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // It accepts connections and never answers.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, address := range map[string]string{"silent": silent.Addr().String(), "closed": "127.0.0.1:1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _ := start(t, "postgres://app@"+address+"/app?sslmode=disable", lease)
			calls := map[string]func(ctx context.Context) error{
				"Publish": func(ctx context.Context) error {
					return b.Publish(ctx, broker.Address{Queue: "default.q"}, message("lost"))
				},
				"Declare": func(ctx context.Context) error { return b.Declare(ctx, broker.Queue{Name: "default.q"}) },
				"Delete":  func(ctx context.Context) error { return b.Delete(ctx, "default.q") },
				"Ping":    b.Ping,
				"Ready":   func(ctx context.Context) error { _, err := b.Ready(ctx, "default.q"); return err },
				"Subscribe": func(ctx context.Context) error {
					_, err := b.Subscribe(ctx, "default.q", 1)
					return err
				},
			}
			var waiting sync.WaitGroup
			for call, f := range calls {
				for _, limit := range []time.Duration{200 * time.Millisecond, 0} {
					waiting.Go(func() {
						ctx, most := context.Background(), callLimit
						if call == "Subscribe" && limit == 0 {
							return // Without a deadline it waits for ever.
						}
						if limit > 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, limit)
							defer cancel()
							most = limit
						}
						began := time.Now()
						if err := f(ctx); !errs.Is(err, errs.Unavailable) {
							t.Errorf("%s within %v: %v, want errs.Unavailable", call, limit, err)
						}
						if took := time.Since(began); took > most+time.Second {
							t.Errorf("%s within %v took %v", call, limit, took)
						}
					})
				}
			}
			waiting.Wait()
		})
	}
}
