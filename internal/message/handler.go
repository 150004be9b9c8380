package message

import "context"

// Handler is a function that handles the messages of one queue.
type Handler struct {
	queue       QueueName
	handle      func(context.Context, Message) error
	concurrency int
}

// Option changes a Handler.
type Option func(*Handler)

// Concurrency lets a process handle n messages at a time; without it, one.
func Concurrency(n int) Option { return func(h *Handler) { h.concurrency = n } }

// Handle registers a function for the messages of a queue. A message may come more than once. nil acknowledges it; an
// error or a panic gives it back, to come again after a back-off. It panics where queue is no queue name.
func Handle(queue string, handle func(context.Context, Message) error, options ...Option) Handler {
	name, err := ParseQueueName(queue)
	if err != nil {
		panic(err)
	}
	h := Handler{queue: name, handle: handle, concurrency: 1}
	for _, option := range options {
		option(&h)
	}
	return h
}
