package rpc

import (
	"context"
	"math/rand/v2"
	"net"
	"time"
)

type connKey struct{}

// ConnContext sets when a connection of an http.Server is to end: after MaxAge, less a random part of up to a tenth, so that
// connections which began together do not end together. It also limits what the system holds for it.
func (s *Stack) ConnContext(ctx context.Context, conn net.Conn) context.Context {
	limitUnsent(conn)
	if s.MaxAge <= 0 {
		return ctx
	}
	return context.WithValue(ctx, connKey{}, time.Now().Add(s.age()))
}

func (s *Stack) age() time.Duration { return s.MaxAge - rand.N(s.MaxAge/10+1) }

// endAged makes this reply the last one on a connection that is too old: HTTP/1.1 closes it, HTTP/2 sends GOAWAY and
// finishes the open streams. Clients reconnect, and a load balancer spreads the connections.
func (c *call) endAged() {
	if until, ok := c.request.Context().Value(connKey{}).(time.Time); ok && c.start.After(until) {
		c.Header()["Connection"] = []string{"close"}
	}
}

// stream sets when a stream is to finish. From then on its handler sends no more, and it ends once its client has settled
// what it holds.
func (s *Stack) stream(c *call) (end func()) {
	finishing := s.Draining
	if finishing == nil {
		finishing = context.Background()
	}
	if s.MaxAge <= 0 {
		c.finishing = finishing
		return func() {}
	}
	var cancel context.CancelFunc
	c.finishing, cancel = context.WithTimeout(finishing, s.age())
	return cancel
}

// Finishing returns a context that ends when the stream of ctx is to finish, because the process stops or the stream is too
// old.
func Finishing(ctx context.Context) context.Context {
	if c := callFrom(ctx); c.finishing != nil {
		return c.finishing
	}
	return context.Background()
}
