package pg

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
)

const (
	listenMinBackoff = 100 * time.Millisecond
	listenMaxBackoff = 10 * time.Second
	// listenQuiet is how long a silent connection is trusted. A server that vanished without a word is found after it.
	listenQuiet = 30 * time.Second
)

// Listen hears the notifications of a channel and calls wake with the payload of each, one after the other. It calls
// wake("") after every connect, when anything may have been missed, so a reader that reads on every wake misses
// nothing. It holds one connection of its own and makes it anew, with back-off and jitter, until ctx ends; then it
// returns nil. An error means that the URL is not usable.
//
// The URL must lead to the server itself: behind a pooler in transaction mode LISTEN is silently without effect.
func Listen(ctx context.Context, url, channel string, logger *zap.Logger, wake func(payload string)) error {
	config, err := connConfig(url)
	if err != nil {
		return err
	}
	backoff := listenMinBackoff
	for {
		connected, err := listen(ctx, config, channel, wake)
		if ctx.Err() != nil {
			return nil
		}
		if connected {
			backoff = listenMinBackoff
		}
		logger.Warn("not listening for notifications", zap.String("channel", channel), zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff/2 + rand.N(backoff/2)):
		}
		backoff = min(2*backoff, listenMaxBackoff)
	}
}

// listen serves one connection until it breaks.
func listen(ctx context.Context, config *pgx.ConnConfig, channel string, wake func(string)) (connected bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return false, err
	}
	wake("")
	for {
		n, err := waitNotification(ctx, conn)
		switch {
		case err == nil:
			wake(n.Payload)
		case ctx.Err() != nil || !pgconn.Timeout(err):
			return true, err
		default:
			if err := ping(ctx, conn); err != nil {
				return true, err
			}
		}
	}
}

func waitNotification(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	ctx, cancel := context.WithTimeout(ctx, listenQuiet)
	defer cancel()
	return conn.WaitForNotification(ctx)
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	return conn.Ping(ctx)
}
