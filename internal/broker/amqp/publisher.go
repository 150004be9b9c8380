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
	// window is how many publications may be unconfirmed on one channel.
	window = 256
	// confirmPatience is how long a channel may owe a confirm. It is longer than callLimit: the caller has left by then.
	confirmPatience = 6 * time.Second
	// patiencePeriod is how often the channel is checked for that.
	patiencePeriod = time.Second
)

var errLost = errs.New(errs.Unavailable, "the connection to RabbitMQ was lost before it confirmed the message")

// publisher writes batches to the connection of the moment.
type publisher struct {
	logger     *zap.Logger
	batches    chan *batch
	check      *time.Ticker            // of what is overdue
	session    atomic.Pointer[session] // the latest, nil before the first; serve alone changes it
	generation atomic.Uint64
}

func newPublisher(logger *zap.Logger) *publisher {
	return &publisher{logger: logger, batches: make(chan *batch), check: time.NewTicker(patiencePeriod)}
}

// blocked says whether RabbitMQ blocks publishers now, as far as it has told.
func (p *publisher) blocked() bool {
	s := p.session.Load()
	return s != nil && s.blocked.Load()
}

// serve publishes over one connection, until that or its channel is lost.
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

// renew goes on over a new channel where RabbitMQ owes the confirm of a publication for too long: its channel may never
// confirm another one to that queue. While it blocks publishers it owes none.
//
// On a connection that hangs renew does too, until the heartbeat ends the connection.
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

// writeBatch writes a batch, as the window has places for it. An error ends the connection; what is not written is lost
// with it.
func (p *publisher) writeBatch(b *batch) error {
	for i, e := range b.entries {
		err := p.writeEntry(b, e)
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

func (p *publisher) writeEntry(b *batch, e entry) error {
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

// place takes a place of the window. Where none becomes free, because confirms do not come, a new channel brings a new window.
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

// session is the life of one channel in confirm mode.
type session struct {
	conn    *amqp091.Connection
	blocked *atomic.Bool // the connection's
	channel *amqp091.Channel
	closed  <-chan *amqp091.Error
	places  chan int // the places of the window that are free
	returns <-chan amqp091.Return
	began   time.Time
	due     [window]atomic.Int64 // when the confirm becomes overdue, since began, by the place; 0 where none is owed

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
		// One place for each publication that can be returned: the library gives a listener up that keeps it waiting,
		// and an unroutable message would then look confirmed.
		returns: channel.NotifyReturn(make(chan amqp091.Return, window)),
		began:   time.Now(),
	}
	for place := range window {
		s.places <- place
	}
	return s, nil
}

// overdue counts the publications that are unconfirmed for longer than confirmPatience.
func (s *session) overdue() (n int) {
	now := int64(time.Since(s.began))
	for place := range s.due {
		if due := s.due[place].Load(); due != 0 && due < now {
			n++
		}
	}
	return n
}

// retire closes the channel once nothing is unconfirmed on it, and after callLimit at the latest: then every caller has
// left. Nothing is written to it any more.
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
	_ = s.channel.Close() // It is of no more use, whatever the server answers.
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

// write writes one publication and leaves it to settle.
func (s *session) write(b *batch, e entry, place int) error {
	s.due[place].Store(int64(time.Since(s.began) + confirmPatience))
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
	s.due[place].Store(0)
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
