package amqp

import (
	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	// trusted is the size of a body that no RabbitMQ refuses.
	trusted = 4 << 10
	// maxTrials is how many items are tried at a time.
	maxTrials = 16
	// frameRest is what a frame has of a message beside its headers, in bytes: the other properties and the frame's own.
	frameRest = 1 << 10
)

// try publishes an item on a channel of its own, since RabbitMQ may answer it with the end of the channel: its body is larger
// than any that RabbitMQ took over this connection, or its last channel was closed. Whatever becomes of it, others are not
// disturbed.
func (p *publisher) try(s *session, w written) {
	select {
	case p.trials <- struct{}{}:
		defer func() { <-p.trials }()
	case <-w.ctx.Done():
		w.outcomes <- outcome{w.index, errUnsent}
		return
	}
	if size := int64(len(w.message.Body)); !w.again && size <= p.proven.Load() {
		select { // Another one has shown meanwhile that it is not too large.
		case p.returned <- w:
		case <-w.ctx.Done():
			w.outcomes <- outcome{w.index, errUnsent}
		}
		return
	}
	w.outcomes <- outcome{w.index, p.trial(s, w)}
}

func (p *publisher) trial(s *session, w written) error {
	alone, err := newSession(s.conn, s.blocked)
	if err != nil {
		return errUnsent
	}
	defer func() { _ = alone.channel.Close() }()
	confirmation, err := alone.publish(w, 0)
	if err != nil {
		return errLost
	}
	select {
	case <-confirmation.Done():
	case <-w.ctx.Done():
		return errLost
	}
	switch {
	case alone.wasReturned(0):
		return broker.ErrNoQueue
	case confirmation.Acked():
		p.prove(int64(len(w.message.Body)))
		return nil
	case !alone.channel.IsClosed():
		return broker.ErrFull
	}
	<-alone.ended
	return refusal(alone.reason)
}

// prove records that RabbitMQ took a body of that size.
func (p *publisher) prove(size int64) {
	for {
		proven := p.proven.Load()
		if size <= proven || p.proven.CompareAndSwap(proven, size) {
			return
		}
	}
}

// refusal returns the error of an item whose own channel RabbitMQ closed.
func refusal(reason *amqp091.Error) error {
	if reason == nil || !reason.Server {
		return errLost
	}
	switch reason.Code {
	case amqp091.PreconditionFailed, amqp091.ContentTooLarge, amqp091.SyntaxError, amqp091.FrameError, amqp091.NotImplemented:
		return errs.Wrap(reason, errs.InvalidArgument, "RabbitMQ refuses the message, most likely because of its size (max_message_size): %.200s", reason.Reason)
	case amqp091.AccessRefused, amqp091.NotAllowed:
		return errs.Wrap(reason, errs.FailedPrecondition, "RabbitMQ does not allow the service to publish there")
	default:
		return errLost
	}
}

// fits returns InvalidArgument for a message whose headers and attributes are larger than a frame of this connection: to send them
// would cost the connection.
func (s *session) fits(m broker.Message) error {
	frame := s.conn.Config.FrameSize
	if frame <= 0 {
		return nil // no limit
	}
	size := frameRest + len(m.ID)
	for key, value := range m.Headers {
		size += len(headerPrefix) + len(key) + len(value) + fieldCost
	}
	for key, value := range m.Attributes {
		size += len(key) + len(value) + fieldCost
	}
	if size > frame {
		return errs.New(errs.InvalidArgument, "attributes: they have about %d bytes with what the service adds; RabbitMQ takes at most %d (frame_max)", size, frame)
	}
	return nil
}
