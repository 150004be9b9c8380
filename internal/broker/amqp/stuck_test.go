package amqp

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
)

// publishingChannel is the number of the first channel of the connection for publishing.
const publishingChannel = 1

// TestChannelWithoutConfirms has a channel that confirms nothing any more. Publishing must continue over another channel,
// which must not fail what is in flight on the first one.
func TestChannelWithoutConfirms(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	to := broker.Address{Queue: queue}
	stuck, generation := b.publisher.session.Load(), b.Generation()
	cure := p.withholdConfirms(publishingChannel)
	wantUnavailable(t, "Publish over the stuck channel", b.Publish(t.Context(), to, message()))

	late := make(chan error, 1)
	go func() { late <- b.Publish(t.Context(), to, message()) }()
	brokertest.Eventually(t, "another channel takes over", func() bool { return b.publisher.session.Load() != stuck })
	began := time.Now()
	publish(t, b, queue)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Publish over the new channel took %v", took)
	}
	select {
	case err := <-late:
		t.Fatalf("Publish over the stuck channel: %v before its confirm", err)
	default:
	}
	cure()
	if err := <-late; err != nil {
		t.Errorf("Publish with a late confirm: %v", err)
	}

	began = time.Now()
	brokertest.Eventually(t, "the old channel is closed", stuck.channel.IsClosed)
	if took := time.Since(began); took > callLimit/2 {
		t.Errorf("the old channel was closed %v after its last confirm", took)
	}
	brokertest.WantReady(t, b, queue, 3)
	if b.Generation() != generation {
		t.Error("the generation has changed")
	}
}

// TestWindowWithoutConfirms fills the window with publications that are never confirmed. A publication that waits for a
// place then must still be written, within its callLimit.
func TestWindowWithoutConfirms(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	to := broker.Address{Queue: queue}
	stuck, generation := b.publisher.session.Load(), b.Generation()
	p.withholdConfirms(publishingChannel)
	batch := make([]broker.Publication, window)
	for i := range batch {
		batch[i] = broker.Publication{To: to, Message: message()}
	}
	brief, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, err := range b.PublishBatch(brief, batch) {
		wantUnavailable(t, "PublishBatch over the stuck channel", err)
	}
	if n := len(stuck.places); n != 0 {
		t.Fatalf("%d places of the window are free: the case shows nothing", n)
	}
	// In both calls the publisher waits for a place; in the second one it runs out of patience.
	brief, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	wantUnavailable(t, "Publish behind a full window", b.Publish(brief, to, message()))
	if err := b.Publish(t.Context(), to, message()); err != nil {
		t.Errorf("Publish behind a full window: %v, want it written over a new channel", err)
	}
	if stuck.channel.IsClosed() {
		t.Error("the old channel was closed at once")
	}
	brokertest.Eventually(t, "the old channel is closed", stuck.channel.IsClosed)
	brokertest.WantReady(t, b, queue, window+1)
	publish(t, b, queue)
	if b.Generation() != generation {
		t.Error("the generation has changed")
	}
}

// TestNothingIsOverdueInAnAlarm expects no new channel while RabbitMQ reads nothing: it could not be opened.
func TestNothingIsOverdueInAnAlarm(t *testing.T) {
	t.Parallel()
	p := newPublisher(zap.NewNop())
	s := &session{blocked: new(atomic.Bool), began: time.Now()}
	s.due[window-1].Store(1)
	s.blocked.Store(true)
	p.session.Store(s)
	if n := s.overdue(); n != 1 {
		t.Fatalf("%d are overdue, want 1", n)
	}
	if err := p.renew(); err != nil || p.session.Load() != s {
		t.Errorf("renew: %v, want nil and the same channel", err)
	}
}
