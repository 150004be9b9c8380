package amqp

import (
	"context"
	"net"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/loop"
)

const (
	dialTimeout = 5 * time.Second
	// The library gives up on a silent server after one and a half heartbeats. Even with the longest back-off after that,
	// the link is back within 15 s of the server.
	heartbeat = 8 * time.Second
	// closeTimeout bounds how long closing waits for a server that may not answer.
	closeTimeout = time.Second

	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
)

// link maintains one connection and reconnects when it is lost.
type link struct {
	linkConfig
	subscriptions int // that have a place here; guarded by the Broker's mu

	mu      sync.Mutex
	conn    *amqp091.Connection // nil while there is none
	changed chan struct{}       // closed when conn changes
}

// linkConfig has the parameters of a link.
type linkConfig struct {
	url        string
	logger     *zap.Logger
	life       context.Context // the Broker's
	channelMax uint16          // the client's limit; the server has its own
}

func newLink(c linkConfig) *link { return &link{linkConfig: c, changed: make(chan struct{})} }

// run keeps the link connected until ctx ends. It passes each connection to serve; when serve returns, the connection is
// closed.
func (l *link) run(ctx context.Context, serve func(*amqp091.Connection) error) {
	backoff := loop.Backoff{Min: minBackoff, Max: maxBackoff}
	for first := true; ctx.Err() == nil; first = false {
		lived, err := l.connect(ctx, serve)
		if ctx.Err() != nil {
			return
		}
		// Back off as well from a connection that fails again and again soon after its handshake.
		if lived > maxBackoff {
			backoff.Reset()
		}
		// An outage is logged once, and so is each loss of a connection that was up.
		if first || lived > 0 {
			l.logger.Warn("no connection to RabbitMQ, trying for ever", zap.Error(err))
		}
		loop.Sleep(ctx, backoff.Next())
	}
}

// connect maintains one connection from dialing to its end, and returns how long it lived.
func (l *link) connect(ctx context.Context, serve func(*amqp091.Connection) error) (time.Duration, error) {
	conn, wire, err := l.dial(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	l.logger.Info("connected to RabbitMQ")
	l.set(conn)
	stop := context.AfterFunc(ctx, func() { hangUp(conn, wire) })
	err = serve(conn)
	stop()
	l.set(nil)
	hangUp(conn, wire)
	return time.Since(began), err
}

func (l *link) dial(ctx context.Context) (*amqp091.Connection, *socket, error) {
	properties := amqp091.NewConnectionProperties()
	properties.SetClientConnectionName("plinth")
	var wire *socket
	conn, err := amqp091.DialConfig(l.url, amqp091.Config{
		Heartbeat:  heartbeat,
		ChannelMax: l.channelMax,
		Properties: properties,
		Dial: func(network, address string) (net.Conn, error) {
			raw, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			wire = newSocket(raw)
			// The deadline is for the handshake; the library clears it afterwards.
			return wire, wire.SetDeadline(time.Now().Add(dialTimeout))
		},
	})
	if err != nil && wire != nil {
		_ = wire.Close() // The library leaves it open after some errors of the handshake.
	}
	return conn, wire, err
}

// hangUp closes a connection, after closeTimeout at the latest.
func hangUp(conn *amqp091.Connection, wire *socket) {
	cut := time.AfterFunc(closeTimeout, func() { _ = wire.Close() })
	defer cut.Stop()
	_ = conn.Close() // It is closed whatever the server answers.
}

func (l *link) set(conn *amqp091.Connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = conn
	close(l.changed)
	l.changed = make(chan struct{})
}

// live returns the connection, or nil if there is no working one, and a channel that is closed when that changes.
func (l *link) live() (*amqp091.Connection, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && l.conn.IsClosed() {
		return nil, l.changed
	}
	return l.conn, l.changed
}

func (l *link) up() bool {
	conn, _ := l.live()
	return conn != nil
}

// wait blocks until there is a connection and returns it.
func (l *link) wait(ctx context.Context) (*amqp091.Connection, error) {
	for {
		conn, changed := l.live()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, expired(ctx, "RabbitMQ is away")
		case <-l.life.Done():
			return nil, context.Cause(l.life)
		}
	}
}

// awaitClose serves a connection that other goroutines use: it only waits for its end.
func awaitClose(conn *amqp091.Connection) error {
	return closeReason(<-conn.NotifyClose(make(chan *amqp091.Error, 1)))
}

// closeReason returns the error that NotifyClose reported, or ErrClosed after an orderly close.
func closeReason(reason *amqp091.Error) error {
	if reason == nil {
		return amqp091.ErrClosed
	}
	return reason
}
