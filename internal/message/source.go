package message

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/loop"
)

// pauseRead bounds how long a subscription waits for the table of paused queues. After that it uses what was read before.
const pauseRead = time.Second

// source receives from a queue while it is not paused. During a pause it receives nothing. Outstanding deliveries can be
// settled; once all of them are, the messages that the broker holds ready for the source go back to the queue. Each
// delivery must be settled once. The contexts of a source act for the queue's tenant.
type source struct {
	service *Service
	tenantQueue
	credit      int
	life        context.Context
	outstanding atomic.Int64
	freed       chan struct{} // has a token after the last outstanding delivery was settled

	// Only used by Receive.
	sub    broker.Subscription // nil if a pause closed it
	paused bool                // in this turn
	turn   context.Context     // ends with life, or when the pauses change
	end    func()              // ends turn
}

// open subscribes to a queue. If the queue is paused, the source does so when the pause ends. The source receives until
// life ends; ctx bounds the call. Errors: NotFound.
func (s *Service) open(ctx, life context.Context, queue QueueName, credit int) (*source, error) {
	reading, cancel := context.WithTimeout(ctx, pauseRead)
	defer cancel()
	_ = s.pauses.read(reading, s.system) // While Postgres is away, use what was read before.
	src := &source{
		service: s, tenantQueue: tenantQueue{auth.TenantOf(life), queue}, credit: credit, life: life, freed: make(chan struct{}, 1), end: func() {},
	}
	if err := src.begin(ctx); err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// Receive blocks until there is a delivery, life ends or the queue is gone. It must not be called concurrently.
func (s *source) Receive() (broker.Delivery, error) {
	for {
		if s.turn.Err() != nil {
			if err := s.begin(s.life); err != nil {
				return broker.Delivery{}, err
			}
		}
		if s.paused {
			s.rest()
			continue
		}
		d, err := s.sub.Receive(s.turn)
		if err == nil {
			s.outstanding.Add(1)
			d.Settler = &counted{d.Settler, s}
			if named, is := d.Headers[tenantHeader]; is && named != s.tenant {
				s.refuse(d, named)
				continue
			}
			return d, nil
		}
		if s.turn.Err() != nil {
			continue
		}
		if !errors.Is(err, broker.ErrNoQueue) {
			return d, err
		}
		// The queue was deleted, or the broker came back empty. Subscribing finds out by the table.
		s.unsubscribe()
		if err := s.subscribe(s.life); err != nil {
			return d, err
		}
	}
}

// refuse makes a dead letter of a message that names a tenant other than its queue's. Its content is not stored, since
// nobody may see it. While Postgres is away the message keeps its place, since the messages after it may be of the same
// kind.
func (s *source) refuse(d broker.Delivery, named string) {
	fields := []zap.Field{zap.Inline(s.tenantQueue), zap.String("id", d.ID), zap.String("named", fmt.Sprintf("%.64s", named))}
	f := &failure{message: Message{ID: d.ID, Attempt: d.Attempt}, reason: otherTenant, permanent: true}
	for attempt := 1; ; attempt++ {
		err := s.service.fail(s.life, s.queue, f)
		if err == nil {
			break
		}
		delay := loop.Delay(attempt, minReconnect, maxReconnect)
		s.service.log.Warn("message of another tenant cannot be moved, trying again",
			append(fields, zap.Duration("retry_in_ms", delay), zap.Error(err))...)
		if !loop.Sleep(s.life, delay) {
			s.settle(d.Nack, fields)
			return
		}
	}
	s.service.log.Error("message of another tenant refused", fields...)
	s.settle(d.Ack, fields)
}

func (s *source) settle(how func(context.Context) error, fields []zap.Field) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	if err := how(ctx); err != nil {
		s.service.log.Warn("settling failed, the message will come again", append(fields, zap.Error(err))...)
	}
}

// begin starts a turn, which lasts for as long as the queue stays paused or stays not paused. ctx bounds the call.
func (s *source) begin(ctx context.Context) error {
	s.end()
	if err := s.life.Err(); err != nil {
		return err
	}
	paused, until := s.service.pauses.of(s.tenantQueue)
	turn, cancel := context.WithCancel(s.life)
	unhook := context.AfterFunc(until, cancel)
	s.paused, s.turn, s.end = paused, turn, func() { unhook(); cancel() }
	if paused || s.sub != nil {
		return nil
	}
	return s.subscribe(ctx)
}

// subscribe starts to receive from the broker. Errors: NotFound.
func (s *source) subscribe(ctx context.Context) error {
	return onDeclared(ctx, s.queue, s.service.declare, func() (err error) {
		s.sub, err = s.service.broker.Subscribe(ctx, s.queue.onBroker(s.tenant), s.credit)
		return err
	})
}

// rest blocks until the turn ends or the last outstanding delivery is settled.
func (s *source) rest() {
	if s.outstanding.Load() == 0 {
		s.unsubscribe()
	}
	select {
	case <-s.turn.Done():
	case <-s.freed:
	}
}

func (s *source) unsubscribe() {
	if s.sub != nil {
		s.sub.Close()
		s.sub = nil
	}
}

// Close ends the source. It must be called after the last Receive has returned. Outstanding messages go back to the
// queue.
func (s *source) Close() {
	s.end()
	s.unsubscribe()
}

// counted is the Settler of a source's delivery. It counts the outstanding deliveries down.
type counted struct {
	broker.Settler
	source *source
}

func (c *counted) Ack(ctx context.Context) error {
	defer c.source.settled()
	return c.Settler.Ack(ctx)
}

func (c *counted) Nack(ctx context.Context) error {
	defer c.source.settled()
	return c.Settler.Nack(ctx)
}

func (s *source) settled() {
	if s.outstanding.Add(-1) == 0 {
		loop.Signal(s.freed)
	}
}
