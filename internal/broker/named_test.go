package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"plinth/internal/broker"
)

// seen records the names that a broker is called with.
type seen struct {
	broker.Broker
	queues, topics []string
}

func (s *seen) Declare(_ context.Context, q broker.Queue) error {
	s.queues = append(s.queues, q.Name)
	return nil
}

func (s *seen) PublishBatch(_ context.Context, batch []broker.Publication) []error {
	for _, p := range batch {
		s.queues, s.topics = append(s.queues, p.To.Queue), append(s.topics, p.To.Topic)
	}
	return make([]error, len(batch))
}

// TestNamed has two databases use one broker, and one of them again.
func TestNamed(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	ids := []uuid.UUID{uuid.New(), uuid.New()}
	ids = append(ids, ids[0])
	longest := strings.Repeat("t", 63) + "." + strings.Repeat("q", 64)
	var names, topics []string
	for _, id := range ids {
		under, failed := &seen{}, false
		b := broker.Named(under, func(context.Context) (uuid.UUID, error) {
			if !failed {
				failed = true
				return uuid.UUID{}, away
			}
			return id, nil
		})
		batch := []broker.Publication{{To: broker.Address{Queue: "acme.orders"}}, {To: broker.Address{Topic: longest, RoutingKey: "k"}}}
		for _, err := range b.PublishBatch(t.Context(), batch) {
			if !errors.Is(err, away) {
				t.Fatalf("while the database is away: %v", err)
			}
		}
		if err := b.Declare(t.Context(), broker.Queue{Name: "acme.orders"}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(b.PublishBatch(t.Context(), batch)...); err != nil {
			t.Fatal(err)
		}
		if under.queues[0] != under.queues[1] || !strings.HasPrefix(under.queues[0], "acme.orders@") {
			t.Errorf("the queue is declared as %s, and published to as %s", under.queues[0], under.queues[1])
		}
		if batch[0].To.Queue != "acme.orders" {
			t.Error("the caller's batch was changed")
		}
		if to := (broker.Address{Topic: under.topics[1]}); len(to.Topic)+1+120 > 255 || to.Tenant() != longest[:63] {
			t.Errorf("the topic is %s", to.Topic)
		}
		names, topics = append(names, under.queues[0]), append(topics, under.topics[1])
	}
	for _, of := range [][]string{names, topics} {
		if of[0] == of[1] || of[0] != of[2] {
			t.Errorf("the names of the two, and of the first again: %v", of)
		}
	}
}
