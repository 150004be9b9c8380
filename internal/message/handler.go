package message

import (
	"context"
	"time"

	"plinth/internal/pg"
)

// Handler is a function that handles the messages of a queue. A message may come more than once. If the function returns
// nil, the message is acknowledged. If it returns an error or panics, the message is tried again after the queue's
// back-off, and becomes a dead letter after the queue's max_attempts, or at once if the error is not errs.Retryable. With
// Snooze it comes again later and no attempt is counted.
//
// The variants whose names end in Tx handle each message in a transaction, which begins by recording that the consumer
// handled the message: however often it comes, what the function does in the transaction takes effect once. An error or a
// panic rolls everything back.
//
// A Handler handles the messages of every active tenant, each in the tenant's own queue of that name. The function's
// context acts for the message's tenant, carries the message (FromContext) and its trace, and ends after the handler's
// Timeout, which is a failed attempt like any other, or when the process cannot wait any longer: then the message is given
// back, whatever the function returns.
type Handler struct {
	queue       QueueName
	label       string // of its metrics: the queue's name
	consumer    string
	concurrency int
	timeout     time.Duration
	maxAttempts int  // 0 means the queue's
	remote      bool // it only calls others, so that no message of it ends the process
	around      []Middleware
	handle      func(context.Context, Message) error
	handleTx    func(context.Context, *pg.Tx, Message) error // one of the two is set
}

// Option changes a Handler.
type Option func(*Handler)

// Concurrency sets how many messages of each tenant a process handles at a time. The default is one.
func Concurrency(n int) Option { return func(h *Handler) { h.concurrency = n } }

// Timeout sets how long the function may take for a message. The default is 5 minutes. The context ends then; a function that
// goes on nevertheless keeps its message until it returns.
func Timeout(d time.Duration) Option { return func(h *Handler) { h.timeout = d } }

const defaultTimeout = 5 * time.Minute

// MaxAttempts sets after how many failed attempts a message becomes a dead letter, in place of the queue's max_attempts. It panics
// unless n is at least 1.
func MaxAttempts(n int) Option {
	if n < 1 {
		panic("message: MaxAttempts is at least 1")
	}
	return func(h *Handler) { h.maxAttempts = n }
}

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
	h.queue, h.label, h.consumer, h.concurrency, h.timeout = name, queue, queue, 1, defaultTimeout
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
