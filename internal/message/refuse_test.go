package message_test

import (
	"context"
	"encoding/base64"
	"sync"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// A queue without a max_length is not full, whatever RabbitMQ says. Its queue is deleted there again and again while it is published to,
// and each publisher is told that it is not there, or that it may try again.
func TestQueueThatGoesIsNotFull(t *testing.T) {
	t.Parallel()
	f := newRabbitFixture(t)
	q := f.once(t)
	id, err := pg.Identity(within(t), f.system)
	if err != nil {
		t.Fatal(err)
	}
	channel := rabbitChannel(t)
	publishing, stop := context.WithCancel(auth.AsService(t.Context(), auth.DefaultTenant))
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for range 8 {
		group.Go(func() {
			for publishing.Err() == nil {
				_, err := f.Publish(publishing, message.Publication{To: message.ToQueue(q), Body: []byte("x")})
				if err != nil && publishing.Err() == nil && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Unavailable) {
					t.Error(err)
				}
			}
		})
	}
	for range atFullLength(10, 3) {
		f.publishPatiently(t, q)
		if _, err := channel.QueueDelete("default."+q.String()+"@"+base64.RawURLEncoding.EncodeToString(id[:]), false, false, false); err != nil {
			t.Fatal(err)
		}
	}
}

// rabbitChannel returns a channel of a connection of its own.
func rabbitChannel(t *testing.T) *amqp091.Channel {
	t.Helper()
	conn, err := amqp091.Dial(rabbitURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return channel
}

// publishPatiently publishes a message, again and again while the broker does not take it.
func (f fixture) publishPatiently(t *testing.T, q message.QueueName) {
	t.Helper()
	eventually(t, "a message is published", func() bool {
		_, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q), Body: []byte("x")})
		return err == nil
	})
}
