package amqp

import (
	"strconv"
	"sync"
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

var errLost = errs.New(errs.Unavailable, "the connection to RabbitMQ was lost before it confirmed the message")

// publisher writes batches to the current connection.
type publisher struct {
	logger     *zap.Logger
	batches    chan *batch
	check      *time.Ticker            // for overdue confirms
	session    atomic.Pointer[session] // the latest, nil before the first; only serve changes it
	generation atomic.Uint64
}

func newPublisher(logger *zap.Logger) *publisher {
	return &publisher{logger: logger, batches: make(chan *batch), check: time.NewTicker(patiencePeriod)}
}

// blocked reports whether RabbitMQ currently blocks publishers, as far as it has announced it.
func (p *publisher) blocked() bool {
	s := p.session.Load()
	return s != nil && s.blocked.Load()
}

// serve publishes over one connection until the connection or its channel is lost.
func (p *publisher) serve(conn *amqp091.Connection) error {
	s, err := newSession(conn, new(atomic.Bool))
	if err != nil {
		return err
	}
	if err := declareTopics(s.channel); err != nil {
		return err
	}
	go s.watchBlocking(conn.NotifyBlocked(make(chan amqp091.Blocking, 1)), p.logger)
	p.generation.Add(1)
	p.session.Store(s)
	for err == nil {
		select {
		case b := <-p.batches:
			err = p.writeBatch(b)
		case <-p.check.C:
			err = p.renew()
		case reason := <-p.session.Load().closed:
			err = closeReason(reason)
		}
	}
	return err
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
	next, err := newSession(s.conn, s.blocked)
	if err != nil {
		return err
	}
	p.session.Store(next)
	go s.retire()
	return nil
}

// writeBatch writes a batch as places in the window become free. An error ends the connection; whatever is not written then
// is lost with it.
func (p *publisher) writeBatch(b *batch) error {
	for i, e := range b.items {
		err := p.writeItem(b, e)
		if err == nil {
			continue
		}
		for _, unwritten := range b.items[i:] {
			b.outcomes <- outcome{unwritten.index, errLost}
		}
		return err
	}
	return nil
}

func (p *publisher) writeItem(b *batch, e item) error {
	s, place, err := p.place()
	if err != nil {
		return err
	}
	if b.ctx.Err() != nil {
		s.places <- place // The caller has left.
		return nil
	}
	return s.write(b, e, place)
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
		case reason := <-s.closed:
			return nil, 0, closeReason(reason)
		}
	}
}

// session is one channel in confirm mode.
type session struct {
	conn    *amqp091.Connection
	blocked *atomic.Bool // the connection's
	channel *amqp091.Channel
	closed  <-chan *amqp091.Error
	places  chan int // the free places of the window
	returns <-chan amqp091.Return
	began   time.Time
	due     [window]atomic.Int64 // by place: when its confirm becomes overdue, since began; 0 if none is expected

	mu       sync.Mutex
	returned [window]bool // by the place of the publication
}

func newSession(conn *amqp091.Connection, blocked *atomic.Bool) (*session, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	if err := channel.Confirm(false); err != nil {
		return nil, err
	}
	s := &session{
		conn:    conn,
		blocked: blocked,
		channel: channel,
		closed:  channel.NotifyClose(make(chan *amqp091.Error, 1)),
		places:  make(chan int, window),
		// There is room for each publication that can be returned: the library drops a listener that keeps it waiting, and
		// an unroutable message would then look confirmed.
		returns: channel.NotifyReturn(make(chan amqp091.Return, window)),
		began:   time.Now(),
	}
	for place := range window {
		s.places <- place
	}
	return s, nil
}

// overdue returns the number of publications that have been unconfirmed for longer than confirmPatience.
func (s *session) overdue() (n int) {
	now := int64(time.Since(s.began))
	for place := range s.due {
		if due := s.due[place].Load(); due != 0 && due < now {
			n++
		}
	}
	return n
}

// retire closes the channel once nothing is unconfirmed on it, or after callLimit, when every caller has left. Nothing is
// written to the channel any more.
func (s *session) retire() {
	limit := time.After(callLimit)
	for range window {
		select {
		case <-s.places:
			continue
		case <-limit:
		}
		break
	}
	_ = s.channel.Close() // The channel is not used again, whatever the server answers.
}

// watchBlocking records whether RabbitMQ blocks publishers, until the connection is closed.
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

// write writes one publication; settle then waits for its outcome in the background.
func (s *session) write(b *batch, e item, place int) error {
	s.due[place].Store(int64(time.Since(s.began) + confirmPatience))
	const mandatory, immediate = true, false
	confirmation, err := s.channel.PublishWithDeferredConfirm(e.exchange, e.key, mandatory, immediate, amqp091.Publishing{
		Headers:      wireHeaders(e.message),
		DeliveryMode: amqp091.Persistent,
		MessageId:    e.message.ID,
		// A return carries no delivery tag, and a message id may be in flight more than once: to other queues, or published
		// again.
		CorrelationId: strconv.Itoa(place),
		Body:          e.message.Body,
	})
	if err != nil {
		return err
	}
	go s.settle(confirmation, place, e.index, b.outcomes)
	return nil
}

// settle waits for the confirm, frees the place in the window and sends the outcome.
func (s *session) settle(confirmation *amqp091.DeferredConfirmation, place, index int, outcomes chan<- outcome) {
	<-confirmation.Done()
	result := outcome{index: index}
	switch {
	case s.wasReturned(place):
		result.err = broker.ErrNoQueue
	case confirmation.Acked():
	case s.channel.IsClosed():
		result.err = errLost // The library reports what a lost channel left unconfirmed as refused.
	default:
		result.err = broker.ErrFull
	}
	s.due[place].Store(0)
	s.places <- place
	outcomes <- result
}

// wasReturned reports whether a confirmed publication had been returned. RabbitMQ sends the return first and the library
// delivers both in that order, so the return has arrived by now.
func (s *session) wasReturned(place int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case r, open := <-s.returns:
			if open {
				returned, _ := strconv.Atoi(r.CorrelationId) // It is always a place, since write set it.
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
