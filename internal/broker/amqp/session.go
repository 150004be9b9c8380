package amqp

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/observe"
)

// session is one channel in confirm mode.
type session struct {
	conn    *amqp091.Connection
	blocked *atomic.Bool // the connection's
	channel *amqp091.Channel
	ended   chan struct{}                // closed when the channel is
	reason  *amqp091.Error               // why; read after ended is closed. nil if it was closed orderly
	retired atomic.Bool                  // no confirm came for too long, so that the channel will be closed
	again   func(*session, written) bool // sends once more what is unconfirmed at the end; may be nil
	places  chan int                     // the free places of the window
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
		ended:   make(chan struct{}),
		places:  make(chan int, window),
		// There is room for each publication that can be returned: the library drops a listener that keeps it waiting, and
		// an unroutable message would then look confirmed.
		returns: channel.NotifyReturn(make(chan amqp091.Return, window)),
		began:   time.Now(),
	}
	for place := range window {
		s.places <- place
	}
	closed := channel.NotifyClose(make(chan *amqp091.Error, 1))
	go func() {
		s.reason = <-closed
		close(s.ended)
	}()
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
	defer observe.LogPanic(logger)
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
func (s *session) write(w written, place int) error {
	s.due[place].Store(int64(time.Since(s.began) + confirmPatience))
	confirmation, err := s.publish(w, place)
	if err != nil {
		return err
	}
	go s.settle(confirmation, place, w)
	return nil
}

func (s *session) publish(w written, place int) (*amqp091.DeferredConfirmation, error) {
	const mandatory, immediate = true, false
	return s.channel.PublishWithDeferredConfirm(w.exchange, w.key, mandatory, immediate, amqp091.Publishing{
		Headers:      wireHeaders(w.message),
		DeliveryMode: amqp091.Persistent,
		MessageId:    w.message.ID,
		// A return carries no delivery tag, and a message id may be in flight more than once: to other queues, or published
		// again.
		CorrelationId: strconv.Itoa(place),
		Body:          w.message.Body,
	})
}

// settle waits for the confirm, frees the place in the window and sends the outcome.
func (s *session) settle(confirmation *amqp091.DeferredConfirmation, place int, w written) {
	<-confirmation.Done()
	result := outcome{index: w.index}
	switch {
	case s.wasReturned(place):
		result.err = broker.ErrNoQueue
	case confirmation.Acked():
	case s.channel.IsClosed(): // The library reports what a lost channel left unconfirmed as refused.
		result.err = errLost
		if s.again != nil && s.again(s, w) {
			return
		}
	default:
		result.err = broker.ErrFull
	}
	s.due[place].Store(0)
	s.places <- place
	w.outcomes <- result
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
