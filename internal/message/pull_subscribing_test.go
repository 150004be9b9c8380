package message_test

import (
	"context"
	"sync/atomic"

	"plinth/internal/broker"
)

// subscribing is a broker that counts its open subscriptions.
type subscribing struct {
	broker.Broker
	open, most atomic.Int32
	received   func() // called after the first delivery of a subscription was taken, unless it is nil
}

func (b *subscribing) Subscribe(ctx context.Context, queue string, credit int) (broker.Subscription, error) {
	sub, err := b.Broker.Subscribe(ctx, queue, credit)
	if err != nil {
		return nil, err
	}
	n := b.open.Add(1)
	for most := b.most.Load(); n > most && !b.most.CompareAndSwap(most, n); most = b.most.Load() {
	}
	return &closing{sub, b, 0}, nil
}

type closing struct {
	broker.Subscription
	of    *subscribing
	calls int
}

func (s *closing) Receive(ctx context.Context) (broker.Delivery, error) {
	if s.calls++; s.calls == 2 && s.of.received != nil {
		s.of.received()
	}
	return s.Subscription.Receive(ctx)
}

func (s *closing) Close() {
	s.Subscription.Close()
	s.of.open.Add(-1)
}
