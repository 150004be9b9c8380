package pg

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"

	"plinth/internal/loop"
)

const (
	listenMinBackoff = 100 * time.Millisecond
	listenMaxBackoff = 10 * time.Second
	// listenQuiet is how long a silent connection is trusted. After it, a server that vanished silently is noticed, and a
	// process that does not lead tries again to lead.
	listenQuiet = 5 * time.Second
)

// listen holds one connection and reconnects, with back-off, until ctx ends.
func (n *Notifier) listen(ctx context.Context) {
	backoff := loop.Backoff{Min: listenMinBackoff, Max: listenMaxBackoff}
	for {
		err := n.connect(ctx, backoff.Reset)
		for _, d := range n.duties {
			d.leads.Store(false)
		}
		if ctx.Err() != nil {
			return
		}
		n.log.Warn("not listening for notifications", zap.Error(err))
		if !loop.Sleep(ctx, backoff.Next()) {
			return
		}
	}
}

// connect serves one connection until it breaks.
func (n *Notifier) connect(ctx context.Context, connected func()) error {
	conn, err := pgx.ConnectConfig(ctx, n.config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	for channel := range n.subscribers {
		if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return err
		}
	}
	if err := n.elect(ctx, conn); err != nil {
		return err
	}
	connected()
	for _, subscribers := range n.subscribers {
		for _, wake := range subscribers {
			wake("")
		}
	}
	for elected := time.Now(); ; {
		got, err := n.waitNotification(ctx, conn)
		switch {
		case err == nil:
			for _, wake := range n.subscribers[got.Channel] {
				wake(got.Payload)
			}
			if time.Since(elected) < listenQuiet {
				continue
			}
		case ctx.Err() != nil || !pgconn.Timeout(err) && !errors.Is(err, context.Canceled):
			return err
		}
		if err := n.elect(ctx, conn); err != nil {
			return err
		}
		elected = time.Now()
	}
}

// waitNotification blocks until a notification arrives, listenQuiet has passed, or electNow is called.
func (n *Notifier) waitNotification(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	ctx, cancel := context.WithTimeout(ctx, listenQuiet)
	defer cancel()
	n.mu.Lock()
	n.wake = cancel
	if n.electing {
		cancel()
	}
	n.mu.Unlock()
	return conn.WaitForNotification(ctx)
}
