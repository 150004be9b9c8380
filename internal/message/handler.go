package message

import (
	"context"

	"plinth/internal/pg"
)

// Handler is a function that handles the messages of a queue. A message may come more than once. nil acknowledges it; an
// error or a panic has it tried again after the queue's back-off, and makes it a dead letter after the queue's
// max_attempts, or at once where the error is not errs.Retryable.
//
// The twins on Tx handle each message in a transaction, which begins by recording that the consumer handled it: however
// often the message comes, what is done in the transaction takes effect once. An error or a panic rolls it all back.
//
// It handles the messages of every active tenant, each in the tenant's own queue of that name. Its context acts for the
// message's tenant, carries the message (FromContext) and its trace, and ends when the process has no more time for it: the
// message is then given back, whatever the handler returns.
type Handler struct {
	queue       QueueName
	consumer    string
	concurrency int
	handle      func(context.Context, Message) error
	handleTx    func(context.Context, *pg.Tx, Message) error // one of the two is set
}

// Option changes a Handler.
type Option func(*Handler)

// Concurrency lets a process handle n messages of each tenant at a time; without it, one.
func Concurrency(n int) Option { return func(h *Handler) { h.concurrency = n } }

// Consumer names who handles, for the records of the twins on Tx; without it, that is the queue's name. A handler that
// moves to another queue keeps its records by it.
func Consumer(name string) Option { return func(h *Handler) { h.consumer = name } }

// HandleBytes registers a function for the messages of a queue, as they are. It and the others panic where queue is no
// queue name.
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

// FromContext gives the message that a handler's context belongs to; its ID is empty outside of a handler.
func FromContext(ctx context.Context) Message {
	m, _ := ctx.Value(messageKey{}).(Message)
	return m
}
