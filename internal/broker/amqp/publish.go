package amqp

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	// window is how many publications may be unconfirmed.
	window = 256
	// maxShort is AMQP's limit for a queue name, a message id and a table's key, in bytes.
	maxShort = 255
	// maxAttributes bounds a message's attributes, in bytes with attributeCost for each: they must fit in one frame, of
	// 128 KiB by default, and a longer one costs the connection.
	maxAttributes = 96 << 10
	// attributeCost is what AMQP adds to a key and a value: two lengths and a type.
	attributeCost = 6
	// attributesHeader is the header that holds the attributes, apart from those that RabbitMQ and its plugins set.
	attributesHeader = "attributes"
)

// Publish implements broker.Broker. Of the message, the id has at most 255 bytes, each attribute's key as well, and all
// attributes together 96 KiB, with 6 bytes added for each; more is errs.InvalidArgument.
func (b *Broker) Publish(ctx context.Context, queue string, m broker.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkMessage(queue, m); err != nil {
		return err
	}
	if b.publisher.blocked() {
		return errBlocked
	}
	ctx, cancel := bounded(ctx)
	defer cancel()

	outcome := make(chan error, 1)
	select {
	case b.publisher.publications <- publication{queue, m, outcome}:
	case <-ctx.Done():
		return expired(ctx, "RabbitMQ is away or takes no messages")
	case <-b.life.Done():
		return context.Cause(b.life)
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return expired(ctx, "RabbitMQ did not confirm the message in time")
	}
}

func checkMessage(queue string, m broker.Message) error {
	if err := checkQueue(queue); err != nil {
		return err
	}
	if len(m.ID) > maxShort {
		return errs.New(errs.InvalidArgument, "the message id is longer than %d bytes", maxShort)
	}
	size := 0
	for key, value := range m.Attributes {
		if len(key) > maxShort {
			return errs.New(errs.InvalidArgument, "an attribute's key is longer than %d bytes", maxShort)
		}
		size += len(key) + len(value) + attributeCost
	}
	if size > maxAttributes {
		return errs.New(errs.InvalidArgument, "the attributes are longer than %d bytes, %d added for each", maxAttributes, attributeCost)
	}
	return nil
}

// publication is a message on its way to RabbitMQ. Its caller may have left: outcome takes one error without waiting.
type publication struct {
	queue   string
	message broker.Message
	outcome chan<- error
}

// publisher writes publications to the connection of the moment.
type publisher struct {
	logger       *zap.Logger
	publications chan publication
	session      atomic.Pointer[session] // of the latest connection, nil before the first
}

func newPublisher(logger *zap.Logger) *publisher {
	return &publisher{logger: logger, publications: make(chan publication)}
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
	if err := channel.Confirm(false); err != nil {
		return err
	}
	closed := channel.NotifyClose(make(chan *amqp091.Error, 1))
	s := &session{
		channel:     channel,
		unconfirmed: make(chan struct{}, window),
		// One place for each publication that can be returned: the library gives a listener up that keeps it waiting,
		// and an unroutable message would then look confirmed.
		returns:  channel.NotifyReturn(make(chan amqp091.Return, window)),
		returned: map[string]bool{},
	}
	go s.watchBlocking(conn.NotifyBlocked(make(chan amqp091.Blocking, 1)), p.logger)
	p.session.Store(s)
	for {
		select {
		case s.unconfirmed <- struct{}{}:
		case err := <-closed:
			return closeReason(err)
		}
		select {
		case first := <-p.publications:
			if err := p.publish(s, wire, first); err != nil {
				return err
			}
		case err := <-closed:
			return closeReason(err)
		}
	}
}

// publish writes a publication, which has its place in the window, and with it the others that wait now.
func (p *publisher) publish(s *session, wire *socket, first publication) error {
	wire.cork()
	for next, more := first, true; more; next, more = p.another(s) {
		if err := s.publish(next); err != nil {
			_ = wire.uncork() // For what else is on the way; the connection is over.
			return err
		}
	}
	return wire.uncork()
}

// another takes a publication where one waits and the window has a place for it.
func (p *publisher) another(s *session) (next publication, ok bool) {
	select {
	case s.unconfirmed <- struct{}{}:
	default:
		return publication{}, false
	}
	select {
	case next := <-p.publications:
		return next, true
	default:
	}
	// Callers come in flocks: one confirm lets many of them go on to their next message. The turn is theirs before the
	// batch is closed, which makes for larger ones.
	runtime.Gosched()
	select {
	case next := <-p.publications:
		return next, true
	default:
		<-s.unconfirmed
		return publication{}, false
	}
}

// session is the life of one channel in confirm mode.
type session struct {
	channel     *amqp091.Channel
	published   uint64 // only the writing goroutine uses it
	blocked     atomic.Bool
	unconfirmed chan struct{} // holds one for each publication that is unconfirmed
	returns     <-chan amqp091.Return

	mu       sync.Mutex
	returned map[string]bool // the tags of the publications that were returned
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

// publish writes one publication, and leaves it to settle. A publication that cannot be written ends the session.
func (s *session) publish(p publication) error {
	var headers amqp091.Table
	if len(p.message.Attributes) > 0 {
		attributes := make(amqp091.Table, len(p.message.Attributes))
		for key, value := range p.message.Attributes {
			attributes[key] = value
		}
		headers = amqp091.Table{attributesHeader: attributes}
	}
	s.published++
	tag := strconv.FormatUint(s.published, 10)
	const mandatory, immediate = true, false
	confirmation, err := s.channel.PublishWithDeferredConfirm("", p.queue, mandatory, immediate, amqp091.Publishing{
		Headers:      headers,
		DeliveryMode: amqp091.Persistent,
		MessageId:    p.message.ID,
		// A return names no delivery tag, and an id may be on its way more than once: to other queues, or again.
		CorrelationId: tag,
		Body:          p.message.Body,
	})
	if err != nil {
		p.outcome <- errs.Wrap(err, errs.Unavailable, "the connection to RabbitMQ was lost while publishing")
		return err
	}
	go s.settle(confirmation, tag, p.outcome)
	return nil
}

// settle waits for the confirm and tells the outcome. A channel that is lost ends the wait: the library then counts the
// publication as refused.
func (s *session) settle(confirmation *amqp091.DeferredConfirmation, tag string, outcome chan<- error) {
	<-confirmation.Done()
	switch {
	case s.wasReturned(tag):
		outcome <- broker.ErrNoQueue
	case confirmation.Acked():
		outcome <- nil
	default:
		outcome <- errs.New(errs.Unavailable, "RabbitMQ did not confirm the message")
	}
	<-s.unconfirmed
}

// wasReturned says whether a confirmed publication was returned before. RabbitMQ sends the return first and the library
// passes both on in that order, so the return is among those that have come by now.
func (s *session) wasReturned(tag string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case r, open := <-s.returns:
			if open {
				s.returned[r.CorrelationId] = true
				continue
			}
		default:
		}
		returned := s.returned[tag]
		delete(s.returned, tag)
		return returned
	}
}
