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
	// The library gives a silent server up after one and a half heartbeats. With the longest back-off behind it, the link is
	// back within 15 s of the server.
	heartbeat = 8 * time.Second
	// closeTimeout bounds the goodbye to a server that may not hear it.
	closeTimeout = time.Second

	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
)

// link holds one connection, and makes it anew when it is lost.
type link struct {
	linkConfig
	subscriptions int // that have a place here; the Broker's mu guards it

	mu      sync.Mutex
	conn    *amqp091.Connection // nil while there is none
	changed chan struct{}       // closed when conn changes
}

// linkConfig is what a link is made of.
type linkConfig struct {
	url        string
	logger     *zap.Logger
	life       context.Context // the Broker's
	channelMax uint16          // of the client; the server has one of its own
}

func newLink(c linkConfig) *link { return &link{linkConfig: c, changed: make(chan struct{})} }

// run keeps the link until ctx ends. Each connection is given to serve; when serve returns, it is closed.
func (l *link) run(ctx context.Context, serve func(*amqp091.Connection) error) {
	backoff := loop.Backoff{Min: minBackoff, Max: maxBackoff}
	for first := true; ctx.Err() == nil; first = false {
		lived, err := l.connect(ctx, serve)
		if ctx.Err() != nil {
			return
		}
		// A connection that fails again and again soon after its handshake is backed off from as well.
		if lived > maxBackoff {
			backoff.Reset()
		}
		// An outage is told once, and each loss of a connection that was up.
		if first || lived > 0 {
			l.logger.Warn("no connection to RabbitMQ, trying for ever", zap.Error(err))
		}
		loop.Sleep(ctx, backoff.Next())
	}
}

// connect holds one connection from its dial to its end, and gives how long it lived.
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
			// For the handshake; the library lifts it afterwards.
			return wire, wire.SetDeadline(time.Now().Add(dialTimeout))
		},
	})
	if err != nil && wire != nil {
		_ = wire.Close() // The library leaves it open after some errors of the handshake.
	}
	return conn, wire, err
}

// hangUp closes a connection, at the latest after closeTimeout.
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

// live gives the connection, nil where there is none that works, and a channel that is closed when that changes.
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

// wait gives the connection as soon as there is one.
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

// awaitClose serves a connection that others use.
func awaitClose(conn *amqp091.Connection) error {
	return closeReason(<-conn.NotifyClose(make(chan *amqp091.Error, 1)))
}

// closeReason is the error of what NotifyClose told: nothing, where the end was orderly.
func closeReason(reason *amqp091.Error) error {
	if reason == nil {
		return amqp091.ErrClosed
	}
	return reason
}
