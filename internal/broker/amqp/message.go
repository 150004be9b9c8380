package amqp

import (
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	// maxShort is AMQP's limit for a queue name, a routing key, a message id and a table's key, in bytes.
	maxShort = 255
	// maxAttributes and maxHeaders bound a message's attributes and headers in bytes, including fieldCost for each and the
	// prefix of each header. Together they must fit in one frame, which has 128 KiB by default: a larger one costs the
	// connection.
	maxAttributes = 96 << 10
	maxHeaders    = 16 << 10
	// maxFields bounds the number of attributes and of headers: the library treats a table with more than 8,192 fields as an
	// attack and drops every connection that such a message comes over.
	maxFields = 8000
	// fieldCost is what AMQP adds to a key and a value: two lengths and a type.
	fieldCost = 6
	// attributesHeader is the header that contains the attributes, separate from the headers that RabbitMQ and its plugins
	// set.
	attributesHeader = "attributes"
	// headerPrefix distinguishes the service's own headers from all others.
	headerPrefix = "plinth-"
)

// isTrace reports whether a header carries the trace. Trace headers have their W3C names on the wire, so that other programs
// can follow the trace.
func isTrace(header string) bool { return header == "traceparent" || header == "tracestate" }

func checkMessage(m broker.Message) error {
	if len(m.ID) > maxShort {
		return errs.New(errs.InvalidArgument, "the message id is longer than %d bytes", maxShort)
	}
	if err := checkTable("attribute", m.Attributes, "", maxAttributes); err != nil {
		return err
	}
	return checkTable("header", m.Headers, headerPrefix, maxHeaders)
}

func checkTable(what string, table map[string]string, prefix string, maxSize int) error {
	if len(table) > maxFields {
		return errs.New(errs.InvalidArgument, "there are more than %d %ss", maxFields, what)
	}
	size, maxKey, cost := 0, maxShort-len(prefix), len(prefix)+fieldCost
	for key, value := range table {
		if len(key) > maxKey {
			return errs.New(errs.InvalidArgument, "the key of an %s is longer than %d bytes", what, maxKey)
		}
		size += len(key) + len(value) + cost
	}
	if size > maxSize {
		return errs.New(errs.InvalidArgument, "the %ss are longer than %d bytes, %d added for each", what, maxSize, cost)
	}
	return nil
}

// wireHeaders returns a message's headers and attributes in their wire format.
func wireHeaders(m broker.Message) amqp091.Table {
	if len(m.Attributes) == 0 && len(m.Headers) == 0 {
		return nil
	}
	headers := make(amqp091.Table, len(m.Headers)+1)
	for key, value := range m.Headers {
		if !isTrace(key) {
			key = headerPrefix + key
		}
		headers[key] = value
	}
	if len(m.Attributes) > 0 {
		attributes := make(amqp091.Table, len(m.Attributes))
		for key, value := range m.Attributes {
			attributes[key] = value
		}
		headers[attributesHeader] = attributes
	}
	return headers
}

// received returns the message of a delivery.
func received(d *amqp091.Delivery) broker.Message {
	m := broker.Message{ID: d.MessageId, Body: d.Body}
	for key, value := range d.Headers {
		name, own := strings.CutPrefix(key, headerPrefix)
		if text, ok := value.(string); ok && (own || isTrace(key)) {
			put(&m.Headers, name, text)
		}
	}
	if table, ok := d.Headers[attributesHeader].(amqp091.Table); ok {
		for key, value := range table {
			if text, ok := value.(string); ok {
				put(&m.Attributes, key, text)
			}
		}
	}
	return m
}

func put(table *map[string]string, key, value string) {
	if *table == nil {
		*table = map[string]string{}
	}
	(*table)[key] = value
}

// attempt returns the attempt of a delivery, from the count that quorum queues maintain. Before RabbitMQ 4.3,
// x-delivery-count counts all deliveries that were returned, whether by a reject or by the end of their channel; since then
// it omits some that x-acquired-count includes. Classic queues indicate only whether there was a delivery before.
func attempt(d *amqp091.Delivery) int {
	for _, count := range []string{"x-acquired-count", "x-delivery-count"} {
		if n, ok := d.Headers[count].(int64); ok {
			return int(n) + 1
		}
	}
	if d.Redelivered {
		return 2
	}
	return 1
}
