package cache

import (
	"context"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/loop"
	"plinth/internal/message"
)

const (
	cancelPause = 100 * time.Millisecond // in which rows come together
	cancelLimit = 5 * time.Second        // bounds the canceling of those of a tenant
	maxCancels  = 10_000                 // rows that are to be canceled; further ones are left to the relay
)

// cancels cancels, in the background, the waiting rows whose work is done: those of a while together, since one alone takes the database as
// long as the transaction that made it. If it cannot, the relay does the work once more.
type cancels struct {
	messages *message.Service
	added    chan struct{} // has a token when there are rows

	mu    sync.Mutex
	rows  map[string][]string // ids, by tenant
	count int
}

func newCancels(messages *message.Service) *cancels {
	return &cancels{messages: messages, added: make(chan struct{}, 1), rows: map[string][]string{}}
}

// add has a row canceled.
func (c *cancels) add(tenant, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count < maxCancels {
		c.rows[tenant] = append(c.rows[tenant], id)
		c.count++
		loop.Signal(c.added)
	}
}

// run cancels rows until ctx ends, and at last those that there are then.
func (c *cancels) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-c.added:
			loop.Sleep(ctx, cancelPause)
		case <-ctx.Done():
		}
		c.cancel(context.WithoutCancel(ctx))
	}
}

// cancel cancels the rows that there are.
func (c *cancels) cancel(ctx context.Context) {
	c.mu.Lock()
	rows := c.rows
	c.rows, c.count = map[string][]string{}, 0
	c.mu.Unlock()
	for tenant, ids := range rows {
		bounded, cancel := context.WithTimeout(auth.AsService(ctx, tenant), cancelLimit)
		_ = c.messages.CancelOwn(bounded, ids)
		cancel()
	}
}
