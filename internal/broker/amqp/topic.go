package amqp

import (
	"context"
	"errors"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// topicExchange is the one exchange that all topics share. A topic is the first word of the routing keys on the wire, with
// slashes in place of its dots, so that the words of a topic are not confused with those of a routing key.
const topicExchange = "plinth.topics"

// Bind implements broker.Broker. A topic contains no "/", "*" or "#", and has at most 254 bytes together with a pattern or a
// routing key; any other is errs.InvalidArgument.
func (b *Broker) Bind(ctx context.Context, queue string, bindings ...broker.Binding) error {
	keys := make([]string, len(bindings))
	for i, binding := range bindings {
		err := broker.CheckPattern(binding.Pattern)
		if err == nil {
			keys[i], err = topicKey(binding.Topic, binding.Pattern)
		}
		if err != nil {
			return err
		}
	}
	return b.call(ctx, queue, func(channel *amqp091.Channel) error {
		err := declareExchanges(channel)
		for i, key := range keys {
			if err != nil {
				return err
			}
			noWait := i < len(keys)-1 // The last answer is for all: an error ends the channel.
			err = channel.QueueBind(queue, key, topicExchange, noWait, nil)
		}
		return err
	})
}

// Unbind implements broker.Broker.
func (b *Broker) Unbind(ctx context.Context, queue string, bindings ...broker.Binding) error {
	keys := make([]string, len(bindings))
	for i, binding := range bindings {
		var err error
		if keys[i], err = topicKey(binding.Topic, binding.Pattern); err != nil {
			return err
		}
	}
	err := b.call(ctx, queue, func(channel *amqp091.Channel) error {
		for _, key := range keys {
			if err := channel.QueueUnbind(queue, key, topicExchange, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, broker.ErrNoQueue) {
		return nil
	}
	return err
}

func declareExchanges(channel *amqp091.Channel) error {
	const durable, autoDelete, internal, noWait = true, false, false, false
	if err := channel.ExchangeDeclare(queueExchange, amqp091.ExchangeDirect, durable, autoDelete, internal, noWait, nil); err != nil {
		return err
	}
	return channel.ExchangeDeclare(topicExchange, amqp091.ExchangeTopic, durable, autoDelete, internal, noWait, nil)
}

// topicKey returns the wire form of a routing key or a pattern of the topic.
func topicKey(topic, key string) (string, error) {
	if topic == "" || strings.ContainsAny(topic, "/*#") {
		return "", errs.New(errs.InvalidArgument, `a topic has at least 1 byte, and no "/", "*" or "#"`)
	}
	wire := strings.ReplaceAll(topic, ".", "/")
	if key != "" {
		wire += "." + key
	}
	if len(wire) > maxShort {
		return "", errs.New(errs.InvalidArgument, "a topic and its routing key or pattern have at most %d bytes together", maxShort-1)
	}
	return wire, nil
}
