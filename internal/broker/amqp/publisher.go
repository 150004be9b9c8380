package amqp

import (
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// window is how many publications may be unconfirmed.
const window = 256

var errLost = errs.New(errs.Unavailable, "the connection to RabbitMQ was lost before it confirmed the message")

// publisher writes batches to the connection of the moment.
type publisher struct {
	logger     *zap.Logger
	batches    chan *batch
	session    atomic.Pointer[session] // of the latest connection, nil before the first
	generation atomic.Uint64
}

func newPublisher(logger *zap.Logger) *publisher {
	return &publisher{logger: logger, batches: make(chan *batch)}
}

// blocked says whether RabbitMQ blocks publishers now, as far as it has told.
func (p *publisher) blocked() bool {
	s := p.session.Load()
	return s != nil && s.blocked.Load()
}

// serve publishes over one connection, until that or its channel is lost.
func (p *publisher) serve(conn *amqp091.Connection, wire *socket) error {
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := declareTopics(channel); err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	s := newSession(channel, wire)
	go s.watchBlocking(conn.NotifyBlocked(make(chan amqp091.Blocking, 1)), p.logger)
	p.generation.Add(1)
	p.session.Store(s)
	for {
		select {
		case first := <-p.batches:
			if err := p.write(s, first); err != nil {
				return err
			}
		case err := <-s.closed:
			return closeReason(err)
		}
	}
}

// write writes a batch, and with it the others that wait now.
func (p *publisher) write(s *session, first *batch) error {
	s.wire.cork()
	for next := first; next != nil; next = p.another(s) {
		if err := s.write(next); err != nil {
			_ = s.wire.uncork() // For what else is on the way; the connection is over.
			return err
		}
	}
	return s.wire.uncork()
}

// another takes a batch where one waits and the window has a place for it, nil where not.
func (p *publisher) another(s *session) *batch {
	if len(s.places) == 0 {
		return nil
	}
	select {
	case next := <-p.batches:
		return next
	default:
	}
	// Callers come in flocks: one confirm lets many of them go on to their next message. The turn is theirs before what is
	// written is sent, which makes for fewer system calls.
	runtime.Gosched()
	select {
	case next := <-p.batches:
		return next
	default:
		return nil
	}
}

// session is the life of one channel in confirm mode.
type session struct {
	channel *amqp091.Channel
	wire    *socket
	closed  <-chan *amqp091.Error
	blocked atomic.Bool
	places  chan int // the places of the window that are free
	returns <-chan amqp091.Return

	mu       sync.Mutex
	returned [window]bool // by the place of the publication
}

func newSession(channel *amqp091.Channel, wire *socket) *session {
	s := &session{
		channel: channel,
		wire:    wire,
		closed:  channel.NotifyClose(make(chan *amqp091.Error, 1)),
		places:  make(chan int, window),
		// One place for each publication that can be returned: the library gives a listener up that keeps it waiting,
		// and an unroutable message would then look confirmed.
		returns: channel.NotifyReturn(make(chan amqp091.Return, window)),
	}
	for place := range window {
		s.places <- place
	}
	return s
}

// watchBlocking follows what RabbitMQ tells about blocking, until the connection is closed.
func (s *session) watchBlocking(blockings <-chan amqp091.Blocking, logger *zap.Logger) {
	for b := range blockings {
		s.blocked.Store(b.Active)
		if b.Active {
			logger.Warn("RabbitMQ blocks publishers", zap.String("reason", b.Reason))
		} else {
			logger.Info("RabbitMQ no longer blocks publishers")
		}
	}
}

// write writes a batch, as the window has places for it. An error ends the session; what is not written is lost with it.
func (s *session) write(b *batch) error {
	for i, e := range b.entries {
		err := s.writeEntry(b, e)
		if err == nil {
			continue
		}
		for _, unwritten := range b.entries[i:] {
			b.outcomes <- outcome{unwritten.index, errLost}
		}
		return err
	}
	return nil
}

// writeEntry writes one publication and leaves it to settle.
func (s *session) writeEntry(b *batch, e entry) error {
	place, err := s.place()
	if err != nil {
		return err
	}
	if b.ctx.Err() != nil {
		s.places <- place // The caller has left.
		return nil
	}
	const mandatory, immediate = true, false
	confirmation, err := s.channel.PublishWithDeferredConfirm(e.exchange, e.key, mandatory, immediate, amqp091.Publishing{
		Headers:      wireHeaders(e.message),
		DeliveryMode: amqp091.Persistent,
		MessageId:    e.message.ID,
		// A return names no delivery tag, and an id may be on its way more than once: to other queues, or again.
		CorrelationId: strconv.Itoa(place),
		Body:          e.message.Body,
	})
	if err != nil {
		return err
	}
	go s.settle(confirmation, place, e.index, b.outcomes)
	return nil
}

// place takes a place of the window. Where none is free, what was written is sent first: only its confirms free one.
func (s *session) place() (int, error) {
	select {
	case place := <-s.places:
		return place, nil
	default:
	}
	if err := s.wire.uncork(); err != nil {
		return 0, err
	}
	defer s.wire.cork()
	select {
	case place := <-s.places:
		return place, nil
	case err := <-s.closed:
		return 0, closeReason(err)
	}
}

// settle waits for the confirm, gives the place in the window back and tells the outcome.
func (s *session) settle(confirmation *amqp091.DeferredConfirmation, place, index int, outcomes chan<- outcome) {
	<-confirmation.Done()
	told := outcome{index: index}
	switch {
	case s.wasReturned(place):
		told.err = broker.ErrNoQueue
	case confirmation.Acked():
	case s.channel.IsClosed():
		told.err = errLost // The library counts what a lost channel left unconfirmed as refused.
	default:
		told.err = broker.ErrFull
	}
	s.places <- place
	outcomes <- told
}

// wasReturned says whether a confirmed publication was returned before. RabbitMQ sends the return first and the library
// passes both on in that order, so the return is among those that have come by now.
func (s *session) wasReturned(place int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case r, open := <-s.returns:
			if open {
				returned, _ := strconv.Atoi(r.CorrelationId) // It is a place: this channel wrote it.
				s.returned[returned] = true
				continue
			}
		default:
		}
		was := s.returned[place]
		s.returned[place] = false
		return was
	}
}
