package message_test

import (
	"context"
	"testing"
	"time"

	"plinth/internal/broker"
	"plinth/internal/message"
)

// lingering is a broker whose subscriptions take until released to end, as one of RabbitMQ takes a second for what it has just given back.
type lingering struct {
	broker.Broker
	released <-chan struct{}
}

func (b lingering) Subscribe(ctx context.Context, queue string, credit int) (broker.Subscription, error) {
	sub, err := b.Broker.Subscribe(ctx, queue, credit)
	return lingeringSubscription{sub, b.released}, err
}

type lingeringSubscription struct {
	broker.Subscription
	released <-chan struct{}
}

func (s lingeringSubscription) Close() {
	<-s.released
	s.Subscription.Close()
}

// A push whose calls at a time become more goes on while the subscription with the credit of before ends.
func TestPushGoesOnWhileSubscriptionEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	release := make(chan struct{})
	f.broker = lingering{f.broker, release}
	f.Service = f.process(t, message.Limits{})
	run(t, f.Run)
	f.worker(t, time.Second)
	defer close(release)
	url, calls := endpoint(t, ok)
	q := f.pushes(t, "q", pushTo(url))
	for range 20 {
		f.publish(t, q.Name, "x")
	}
	for range 20 {
		called(t, calls)
	}
}
