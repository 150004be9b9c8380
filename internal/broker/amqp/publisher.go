package amqp

import (
	"errors"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	// window is the maximum number of unconfirmed publications on one channel.
	window = 256
	// confirmPatience is how long a confirm may be outstanding before it is overdue. It is longer than callLimit, so the
	// caller has left by then.
	confirmPatience = 6 * time.Second
	// patiencePeriod is how often the channel is checked for overdue confirms.
	patiencePeriod = time.Second
)

var (
	errLost   = errs.New(errs.Unavailable, "the connection to RabbitMQ was lost before it confirmed the message")
	errUnsent = errs.New(errs.Unavailable, "the connection to RabbitMQ was lost before the message was sent")
)

// written is an item on its way to RabbitMQ.
type written struct {
	*batch
	item
	again bool // it was sent before, over a channel or connection that RabbitMQ closed
}

// publisher writes batches to the current connection.
type publisher struct {
	logger     *zap.Logger
	batches    chan *batch
	check      *time.Ticker            // for overdue confirms
	session    atomic.Pointer[session] // the latest, nil before the first; only serve changes it
	generation atomic.Uint64
	turns      broker.Turns[written] // by tenant; only serve uses it
	returned   chan written          // items that are to be sent again
	proven     atomic.Int64          // the largest body that RabbitMQ took over this connection
	trials     chan struct{}         // has a token for each item that is tried on a channel of its own
}

func newPublisher(logger *zap.Logger) *publisher {
	return &publisher{
		logger: logger, batches: make(chan *batch), check: time.NewTicker(patiencePeriod),
		returned: make(chan written, window), trials: make(chan struct{}, maxTrials),
	}
}

// blocked reports whether RabbitMQ currently blocks publishers, as far as it has announced it.
func (p *publisher) blocked() bool {
	s := p.session.Load()
	return s != nil && s.blocked.Load()
}

// serve publishes over one connection until the connection is lost.
func (p *publisher) serve(conn *amqp091.Connection) error {
	s, err := p.begin(conn, new(atomic.Bool))
	if err != nil {
		return err
	}
	go s.watchBlocking(conn.NotifyBlocked(make(chan amqp091.Blocking, 1)), p.logger)
	p.generation.Add(1)
	p.proven.Store(trusted)
	for err == nil {
		if w, ok := p.turns.Next(); ok {
			err = p.writeItem(w)
			p.takeIn()
		} else {
			select {
			case b := <-p.batches:
				p.add(b)
			case w := <-p.returned:
				p.turns.Add(w.tenant(), w)
			case <-p.check.C:
				err = p.renew()
			case <-p.session.Load().ended:
				err = errChannel
			}
		}
		if errors.Is(err, errChannel) {
			err = p.reopen()
		}
	}
	for w, ok := p.turns.Next(); ok; w, ok = p.turns.Next() {
		w.outcomes <- outcome{w.index, errUnsent}
	}
	return err
}

// errChannel means that the channel is closed, and maybe the connection.
var errChannel = errors.New("the channel is closed")

// begin opens a channel to publish over.
func (p *publisher) begin(conn *amqp091.Connection, blocked *atomic.Bool) (*session, error) {
	s, err := newSession(conn, blocked)
	if err != nil {
		return nil, err
	}
	s.again = p.again
	if err := declareExchanges(s.channel); err != nil {
		return nil, err
	}
	p.session.Store(s)
	return s, nil
}

// reopen goes on over a new channel after RabbitMQ closed the channel alone. What was unconfirmed on it is tried again, each on
// a channel of its own: one of them may be the cause.
func (p *publisher) reopen() error {
	s := p.session.Load()
	<-s.ended
	if s.conn.IsClosed() {
		return closeReason(s.reason)
	}
	p.logger.Warn("RabbitMQ closed the channel for publishing, going on over a new one", zap.Error(closeReason(s.reason)))
	if _, err := p.begin(s.conn, s.blocked); err != nil {
		return err
	}
	if s.reason != nil && s.reason.Code == amqp091.NotFound {
		p.generation.Add(1) // An exchange is gone, and with it all bindings.
	}
	return nil
}

// add puts the items of a batch in line, behind what the tenant of each has there already.
func (p *publisher) add(b *batch) {
	for _, e := range b.items {
		w := written{batch: b, item: e}
		p.turns.Add(w.tenant(), w)
	}
}

// takeIn puts the batches in line that have arrived.
func (p *publisher) takeIn() {
	for {
		select {
		case b := <-p.batches:
			p.add(b)
		case w := <-p.returned:
			p.turns.Add(w.tenant(), w)
		default:
			return
		}
	}
}

// again has an item sent once more that RabbitMQ has neither confirmed nor refused when it closed its channel, or the
// connection. It reports whether it will be.
func (p *publisher) again(s *session, w written) bool {
	<-s.ended
	if w.again || w.ctx.Err() != nil || s.retired.Load() || s.reason == nil || !s.reason.Server {
		return false
	}
	w.again = true
	if s.conn.IsClosed() && w.exchange == topicExchange {
		return false // The queues of the topic have to be declared before it is sent again.
	}
	select {
	case p.returned <- w:
		return true
	case <-w.ctx.Done():
		return false
	}
}

// renew switches to a new channel if a confirm is overdue: RabbitMQ may never confirm another publication of the old channel
// to that queue. While RabbitMQ blocks publishers, no confirm is overdue.
//
// On a hanging connection renew hangs too, until the heartbeat ends the connection.
func (p *publisher) renew() error {
	s := p.session.Load()
	overdue := s.overdue()
	if overdue == 0 || s.blocked.Load() {
		return nil
	}
	p.logger.Warn("RabbitMQ leaves publications unconfirmed, going on over a new channel", zap.Int("overdue", overdue))
	s.retired.Store(true)
	if _, err := p.begin(s.conn, s.blocked); err != nil {
		return err
	}
	go s.retire()
	return nil
}

// writeItem writes an item once a place in the window becomes free. An error ends the channel or the connection; the item is
// lost with it.
func (p *publisher) writeItem(w written) error {
	if w.ctx.Err() != nil {
		w.outcomes <- outcome{w.index, errUnsent} // The caller has left.
		return nil
	}
	s := p.session.Load()
	if err := s.fits(w.message); err != nil {
		w.outcomes <- outcome{w.index, err}
		return nil
	}
	if w.again || int64(len(w.message.Body)) > p.proven.Load() {
		go p.try(s, w)
		return nil
	}
	s, place, err := p.place()
	if err != nil {
		w.outcomes <- outcome{w.index, errUnsent}
		return err
	}
	if w.ctx.Err() != nil {
		s.places <- place
		w.outcomes <- outcome{w.index, errUnsent} // The caller has left meanwhile.
		return nil
	}
	if err := s.write(w, place); err != nil {
		w.outcomes <- outcome{w.index, errLost}
		return errChannel
	}
	return nil
}

// place takes a place in the window. If none becomes free because no confirms arrive, it switches to a new channel, which
// has a new window.
func (p *publisher) place() (*session, int, error) {
	for {
		s := p.session.Load()
		select {
		case place := <-s.places:
			return s, place, nil
		case <-p.check.C:
			if err := p.renew(); err != nil {
				return nil, 0, err
			}
		case b := <-p.batches:
			p.add(b)
		case <-s.ended:
			if s.conn.IsClosed() {
				return nil, 0, errChannel
			}
			if err := p.reopen(); err != nil {
				return nil, 0, err
			}
		}
	}
}
