package amqp

import (
	"context"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	// queueExchange leads to queues by their names, as the default exchange does, but for those that are about to be deleted: RabbitMQ 3
	// answers the first message that a channel publishes to a queue which it is deleting with the end of the connection (INTERNAL_ERROR).
	queueExchange = "plinth.queues"
	// unboundFor is how long a queue has no binding before it is deleted. What was on its way to it has arrived by then.
	unboundFor = 50 * time.Millisecond
)

// Declare implements broker.Broker. A queue name has 1 to 255 bytes; here and in all other methods, any other name is
// errs.InvalidArgument.
func (b *Broker) Declare(ctx context.Context, queue broker.Queue) error {
	return b.onConnection(ctx, queue.Name, func(conn *amqp091.Connection) error {
		version := versionOf(conn)
		if queue.MessageTTL > 0 && !version.hasMessageTTL() {
			return errs.New(errs.FailedPrecondition, "message_ttl: RabbitMQ has it from version 3.10 on, and this one is older")
		}
		err := declare(conn, queue, version)
		if isReply(err, amqp091.PreconditionFailed) && version.hasDeliveryLimit() {
			// The queue may have been declared on RabbitMQ 3, without the argument; the arguments of a queue are fixed.
			if err = declare(conn, queue, serverVersion{}); err == nil {
				b.warnOfDeliveryLimit(queue.Name)
			}
		}
		if isReply(err, amqp091.PreconditionFailed) {
			if err := onChannel(conn, func(channel *amqp091.Channel) error { return bindByName(channel, queue.Name) }); err != nil {
				return err
			}
			return errs.Wrap(err, errs.FailedPrecondition,
				"the queue is there with another message_ttl, max_length or type, which are fixed when it is made")
		}
		return err
	})
}

// Browse implements broker.Broker. RabbitMQ would count a delivery of each message that it shows.
func (b *Broker) Browse(context.Context, string, int64, int, int) ([]broker.Browsed, bool, error) {
	return nil, false, broker.ErrCannotBrowse
}

// Delete implements broker.Broker. RabbitMQ notifies subscriptions a moment later: if the queue is declared again before
// that, they may continue with the new one.
func (b *Broker) Delete(ctx context.Context, queue string) error {
	return b.call(ctx, queue, func(channel *amqp091.Channel) error {
		if err := declareExchanges(channel); err != nil {
			return err
		}
		if err := channel.QueueUnbind(queue, queue, queueExchange, nil); isReply(err, amqp091.NotFound) {
			return nil // The queue is not there. Not every version answers so.
		} else if err != nil {
			return err
		}
		select {
		case <-time.After(unboundFor):
		case <-ctx.Done():
			return ctx.Err()
		}
		const ifUnused, ifEmpty, noWait = false, false, false
		_, err := channel.QueueDelete(queue, ifUnused, ifEmpty, noWait)
		return err
	})
}

// Purge implements broker.Broker.
func (b *Broker) Purge(ctx context.Context, queue string) (int64, error) {
	var purged int
	err := b.call(ctx, queue, func(channel *amqp091.Channel) (err error) {
		const noWait = false
		purged, err = channel.QueuePurge(queue, noWait)
		return err
	})
	if err != nil {
		return 0, err // The call may still be running, and set purged later.
	}
	return int64(purged), nil
}

// Ready implements broker.Broker.
func (b *Broker) Ready(ctx context.Context, queue string) (int64, error) {
	var ready int
	err := b.call(ctx, queue, func(channel *amqp091.Channel) error {
		const durable, autoDelete, exclusive, noWait = true, false, false, false
		q, err := channel.QueueDeclarePassive(queue, durable, autoDelete, exclusive, noWait, nil)
		ready = q.Messages
		return err
	})
	if err != nil {
		return 0, err
	}
	return int64(ready), nil
}

// call runs op on a channel of its own.
func (b *Broker) call(ctx context.Context, queue string, op func(*amqp091.Channel) error) error {
	return b.onConnection(ctx, queue, func(conn *amqp091.Connection) error { return onChannel(conn, op) })
}

// onConnection runs op on the consuming connection, on which RabbitMQ also answers while it blocks publishers. The library's
// calls take no context, so a call that RabbitMQ does not answer stays behind until the connection ends.
func (b *Broker) onConnection(ctx context.Context, queue string, op func(*amqp091.Connection) error) error {
	if ctx.Err() != nil {
		return expired(ctx, "RabbitMQ did not answer in time")
	}
	if err := checkQueue(queue); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	conn, err := b.consuming.wait(ctx)
	if err != nil {
		return err
	}
	outcome := make(chan error, 1)
	go func() { outcome <- op(conn) }()
	select {
	case err := <-outcome:
		return classify(err)
	case <-ctx.Done():
		return expired(ctx, "RabbitMQ did not answer in time")
	}
}

// checkQueue refuses names that the library could not write, since trying to would cost the connection.
func checkQueue(name string) error {
	if name == "" || len(name) > maxShort {
		return errs.New(errs.InvalidArgument, "a queue name has 1 to %d bytes", maxShort)
	}
	return nil
}

// onChannel runs op on a channel of its own, since an error reply of RabbitMQ closes the channel.
func onChannel(conn *amqp091.Connection, op func(*amqp091.Channel) error) error {
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	defer func() { _ = channel.Close() }()
	return op(channel)
}

// warnOfDeliveryLimit says once what becomes of queues that are older than RabbitMQ 4. Whether there is a policy against it
// cannot be seen over AMQP.
func (b *Broker) warnOfDeliveryLimit(queue string) {
	b.warned.Do(func() {
		b.logger.Warn("this queue, and maybe others, was declared before RabbitMQ 4, which drops its messages after 20 deliveries, "+
			"unless a policy says otherwise: "+wayOut, zap.String("queue", queue))
	})
}

const wayOut = `rabbitmqctl set_policy --apply-to quorum_queues plinth-no-delivery-limit '.*' '{"delivery-limit":-1}'`

func declare(conn *amqp091.Connection, queue broker.Queue, version serverVersion) error {
	return onChannel(conn, func(channel *amqp091.Channel) error {
		if err := declareExchanges(channel); err != nil {
			return err
		}
		const durable, autoDelete, exclusive, noWait = true, false, false, false
		_, err := channel.QueueDeclare(queue.Name, durable, autoDelete, exclusive, noWait, queueArguments(queue, version))
		if err != nil {
			return err
		}
		return bindByName(channel, queue.Name)
	})
}

// bindByName binds a queue to queueExchange by its name.
func bindByName(channel *amqp091.Channel, queue string) error {
	const noWait = false
	return channel.QueueBind(queue, queue, queueExchange, noWait, nil)
}

// queueArguments returns the arguments of a queue on a server of that version.
func queueArguments(queue broker.Queue, version serverVersion) amqp091.Table {
	arguments := amqp091.Table{"x-queue-type": "quorum"}
	if version.hasDeliveryLimit() {
		arguments["x-delivery-limit"] = int64(-1)
	}
	if queue.MessageTTL > 0 {
		arguments["x-message-ttl"] = max(1, queue.MessageTTL.Milliseconds()) // 0 would drop everything at once.
	}
	if queue.MaxLength > 0 {
		arguments["x-max-length"] = queue.MaxLength
		arguments["x-overflow"] = "reject-publish"
	}
	return arguments
}

// serverVersion is the version of a server, zero if it is unknown.
type serverVersion struct{ major, minor int }

func versionOf(conn *amqp091.Connection) serverVersion {
	text, _ := conn.Properties["version"].(string)
	return parseVersion(text)
}

func parseVersion(text string) (v serverVersion) {
	_, _ = fmt.Sscanf(text, "%d.%d", &v.major, &v.minor) // It may have any form; what is not read stays zero.
	return v
}

// hasMessageTTL reports whether quorum queues have x-message-ttl. An unknown server is asked.
func (v serverVersion) hasMessageTTL() bool {
	return v == serverVersion{} || v.major > 3 || v.major == 3 && v.minor >= 10
}

// hasDeliveryLimit reports whether the server drops a message from a quorum queue after 20 deliveries unless the queue's
// x-delivery-limit is -1. RabbitMQ does so since version 4; older versions refuse the negative number. The consumer decides
// what happens to a message that fails again and again, so no limit may drop it here.
func (v serverVersion) hasDeliveryLimit() bool { return v.major >= 4 }
