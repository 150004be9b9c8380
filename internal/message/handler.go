package message

import (
	"context"

	"plinth/internal/pg"
)

// Handler is a function that handles the messages of a queue. A message may come more than once. If the function returns
// nil, the message is acknowledged. If it returns an error or panics, the message is tried again after the queue's
// back-off, and becomes a dead letter after the queue's max_attempts, or at once if the error is not errs.Retryable.
//
// The variants whose names end in Tx handle each message in a transaction, which begins by recording that the consumer
// handled the message: however often it comes, what the function does in the transaction takes effect once. An error or a
// panic rolls everything back.
//
// A Handler handles the messages of every active tenant, each in the tenant's own queue of that name. The function's
// context acts for the message's tenant, carries the message (FromContext) and its trace, and ends when the process
// cannot wait any longer: then the message is given back, whatever the function returns.
type Handler struct {
	queue       QueueName
	consumer    string
	concurrency int
	handle      func(context.Context, Message) error
	handleTx    func(context.Context, *pg.Tx, Message) error // one of the two is set
}

// Option changes a Handler.
type Option func(*Handler)

// Concurrency sets how many messages of each tenant a process handles at a time. The default is one.
func Concurrency(n int) Option { return func(h *Handler) { h.concurrency = n } }

// Consumer sets the name under which the Tx variants record handled messages. The default is the queue's name. A handler
// that moves to another queue keeps its records by keeping this name.
func Consumer(name string) Option { return func(h *Handler) { h.consumer = name } }

// HandleBytes registers a function for the unparsed messages of a queue. Like the other Handle functions, it panics if
// queue is not a valid queue name.
func HandleBytes(queue string, handle func(context.Context, Message) error, options ...Option) Handler {
	return Handler{handle: handle}.of(queue, options)
}

// HandleBytesTx is HandleBytes with effect once.
func HandleBytesTx(queue string, handle func(context.Context, *pg.Tx, Message) error, options ...Option) Handler {
	return Handler{handleTx: handle}.of(queue, options)
}

func (h Handler) of(queue string, options []Option) Handler {
	name, err := ParseQueueName(queue)
	if err != nil {
		panic(err)
	}
	h.queue, h.consumer, h.concurrency = name, queue, 1
	for _, option := range options {
		option(&h)
	}
	return h
}

type messageKey struct{}

// FromContext returns the message that a handler's context belongs to. Outside of a handler, its ID is empty.
func FromContext(ctx context.Context) Message {
	m, _ := ctx.Value(messageKey{}).(Message)
	return m
}
