package cache

import (
	"context"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/message"
)

const (
	cancelPause = 100 * time.Millisecond // in which rows come together
	maxCancels  = 10_000                 // rows that are to be canceled; further ones are left to the relay
)

// cancels cancels, in the background, the waiting rows whose work is done: those of a while together, since one alone takes the database as
// long as the transaction that made it. If it cannot, the relay does the work once more.
type cancels struct {
	messages *message.Service

	mu      sync.Mutex
	rows    map[string][]string // ids, by tenant
	count   int
	running bool
}

// add has a row canceled.
func (c *cancels) add(tenant, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= maxCancels {
		return
	}
	if c.rows == nil {
		c.rows = map[string][]string{}
	}
	c.rows[tenant] = append(c.rows[tenant], id)
	c.count++
	if !c.running {
		c.running = true
		go c.run()
	}
}

// run cancels rows until there are none.
func (c *cancels) run() {
	for {
		time.Sleep(cancelPause)
		c.mu.Lock()
		rows := c.rows
		c.rows, c.count = nil, 0
		c.running = len(rows) > 0
		c.mu.Unlock()
		if len(rows) == 0 {
			return
		}
		for tenant, ids := range rows {
			_ = c.messages.CancelOwn(auth.AsService(context.Background(), tenant), ids)
		}
	}
}
