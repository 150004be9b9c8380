package channel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/loop"
)

const (
	reconnectMin = 50 * time.Millisecond
	reconnectMax = time.Second
	connectLimit = 5 * time.Second
	pingEvery    = time.Second // of silence
	silentLimit  = 3 * time.Second
	unusedFor    = time.Minute // after which a node that is away is not tried any more
)

// links has a link to each server that has keys of tenants: one, but in a Cluster one for each node.
type links struct {
	client redis.UniversalClient
	log    *zap.Logger
	start  func(func(context.Context)) bool // starts a goroutine of the service

	mu     sync.Mutex
	byAddr map[string]*link
}

// link keeps one connection to a server that listens to what is published there.
type link struct {
	links *links
	addr  string
	node  *redis.Client // whose options the connections of the link have
	used  atomic.Int64  // when it was last asked for, in nanoseconds since 1970

	mu      sync.Mutex
	session *session      // nil while the server is away
	changed chan struct{} // closed when session changes
	since   time.Time     // of the last change
}

// session is a connection that listens, and those by which commands go to the same server. It ends when the first one does.
type session struct {
	client  *redis.Client
	pubsub  *redis.PubSub
	witness string
	ended   chan struct{}
	end     func(cause error)

	mu        sync.Mutex
	listeners map[string]*listener // by pub/sub channel
}

// listener gets what is published to a pub/sub channel.
type listener struct {
	message   func(payload string)
	confirmed chan struct{} // closed when the server says that the subscription is there
}

// of returns the link to the server that has the keys of a tenant. Errors: Unavailable.
func (l *links) of(ctx context.Context, tenant string) (*link, error) {
	addr, node := "", (*redis.Client)(nil)
	switch client := l.client.(type) {
	case *redis.Client:
		node = client
	case *redis.ClusterClient:
		owner, err := client.MasterForKey(ctx, kv.Key(tenant))
		if err != nil {
			return nil, errAway(err)
		}
		addr, node = owner.Options().Addr, owner
	default:
		return nil, fmt.Errorf("channels cannot use a %T", client)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.byAddr[addr]
	if k == nil {
		k = &link{links: l, addr: addr, node: node, changed: make(chan struct{}), since: time.Now()}
		if !l.start(k.run) {
			return nil, errAway(nil)
		}
		l.byAddr[addr] = k
	}
	k.used.Store(time.Now().UnixNano())
	return k, nil
}

// reload has the nodes of a Cluster looked up again.
func (l *links) reload(ctx context.Context) {
	if cluster, ok := l.client.(*redis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
}

// up returns the session, and a channel that is closed when another one begins or this one ends. The session is nil while the server is
// away.
func (k *link) up() (*session, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.session, k.changed
}

// await returns the session, and waits for one until the server has been away for limit. Errors: Unavailable.
func (k *link) await(ctx context.Context, limit time.Duration) (*session, error) {
	k.mu.Lock()
	limit -= time.Since(k.since)
	k.mu.Unlock()
	timer := time.NewTimer(max(limit, 0))
	defer timer.Stop()
	for {
		session, changed := k.up()
		if session != nil {
			return session, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, errAway(nil)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (k *link) set(s *session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.session, k.since = s, time.Now()
	close(k.changed)
	k.changed = make(chan struct{})
}

// run connects again and again, until ctx ends, or nobody has asked for the link for a while and its server is away.
func (k *link) run(ctx context.Context) {
	backoff := loop.Backoff{Min: reconnectMin, Max: reconnectMax}
	for ctx.Err() == nil {
		s, err := k.connect(ctx)
		if err == nil {
			backoff.Reset()
			k.set(s)
			err = s.receive(ctx)
			k.set(nil)
			s.close(err)
		}
		if ctx.Err() != nil || k.forget() {
			return
		}
		k.links.log.Debug("Redis does not deliver what is published to channels", zap.Error(err))
		k.links.reload(ctx)
		if !loop.Sleep(ctx, backoff.Next()) {
			return
		}
	}
}

// forget removes a link that nobody uses.
func (k *link) forget() bool {
	k.links.mu.Lock()
	defer k.links.mu.Unlock()
	if time.Since(time.Unix(0, k.used.Load())) < unusedFor {
		return false
	}
	delete(k.links.byAddr, k.addr)
	return true
}

var errOnce = errors.New("a connection that listens is not replaced by another one")

// connect opens a session.
func (k *link) connect(ctx context.Context) (*session, error) {
	commands := *k.node.Options()
	commands.MaxRetries = -1 // Nothing is published twice.
	commands.ContextTimeoutEnabled = true
	commands.MinIdleConns = 0
	// The node's client changes its own as it connects, and a session that is announced to end just ends.
	commands.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	listening := commands
	// The library would connect again by itself, and subscribe to the witness on another server. A witness has one connection.
	var connected atomic.Bool
	dial := commands.Dialer
	listening.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connected.Load() {
			return nil, errOnce
		}
		conn, err := dial(ctx, network, addr)
		if err == nil {
			connected.Store(true)
		}
		return conn, err
	}
	s := &session{
		client: redis.NewClient(&commands), witness: k.links.pubsubName("witness", rand.Text()), ended: make(chan struct{}),
		listeners: map[string]*listener{},
	}
	listener := redis.NewClient(&listening)
	var once sync.Once
	s.end = func(error) {
		once.Do(func() {
			close(s.ended)
			_ = s.pubsub.Close()
			_ = listener.Close()
		})
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	s.pubsub = listener.Subscribe(ctx)
	err := s.pubsub.Subscribe(ctx, s.witness)
	if err == nil {
		_, err = s.pubsub.ReceiveTimeout(ctx, connectLimit)
	}
	if err != nil {
		s.close(err)
		return nil, err
	}
	return s, nil
}

func (s *session) close(err error) {
	s.end(err)
	_ = s.client.Close()
}

// receive hands out what comes until the connection is lost or silent, or ctx ends.
func (s *session) receive(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.end(ctx.Err()) })
	defer stop()
	for heard := time.Now(); ; {
		reply, err := s.pubsub.ReceiveTimeout(ctx, pingEvery)
		var timeout net.Error
		switch {
		case err == nil:
			heard = time.Now()
			s.dispatch(reply)
		case !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(heard) > silentLimit:
			return err
		default:
			if err := s.pubsub.Ping(ctx); err != nil {
				return err
			}
		}
	}
}

func (s *session) dispatch(reply any) {
	switch reply := reply.(type) {
	case *redis.Message:
		if l := s.listener(reply.Channel); l != nil {
			l.message(reply.Payload)
		}
	case *redis.Subscription:
		if l := s.listener(reply.Channel); l != nil && reply.Kind == "subscribe" {
			select {
			case <-l.confirmed:
			default:
				close(l.confirmed)
			}
		}
	}
}

func (s *session) listener(channel string) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listeners[channel]
}

// listen has message called with what is published to a pub/sub channel, one after the other, from when it returns. Errors: those
// of Redis.
func (s *session) listen(ctx context.Context, channel string, message func(payload string)) error {
	l := &listener{message: message, confirmed: make(chan struct{})}
	s.mu.Lock()
	s.listeners[channel] = l
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if err := s.pubsub.Subscribe(ctx, channel); err != nil {
		return err
	}
	select {
	case <-l.confirmed:
		return nil
	case <-s.ended:
		return errAway(nil)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave ends what listen began.
func (s *session) leave(ctx context.Context, channel string) {
	s.mu.Lock()
	delete(s.listeners, channel)
	s.mu.Unlock()
	_ = s.pubsub.Unsubscribe(ctx, channel) // If the connection is lost, so is the subscription.
}

// pubsubName returns the name of a pub/sub channel: plinth, the number of the database, since pub/sub has no databases, and the parts.
func (l *links) pubsubName(parts ...string) string {
	database := 0
	if client, ok := l.client.(*redis.Client); ok {
		database = client.Options().DB
	}
	name := "plinth:" + strconv.Itoa(database) + ":channels"
	for _, part := range parts {
		name += ":" + part
	}
	return name
}

func errAway(cause error) error {
	return errs.Wrap(cause, errs.Unavailable, "Redis is not available, and channels are there").After(reconnectMax)
}
