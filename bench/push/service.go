package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/bench/command"
	"plinth/bench/scratch"
	"plinth/internal/auth"
	"plinth/internal/broker/postgres"
	"plinth/internal/message"
	"plinth/internal/outbound"
	"plinth/internal/pg"
)

// bench is a service with a worker, on a broker in PostgreSQL.
type bench struct {
	service *message.Service
	calls   atomic.Int64 // of hostile endpoints
	closers []func()
}

func (b *bench) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

func open(ctx context.Context) (_ *bench, err error) {
	b := &bench{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	url, drop, err := scratch.Database(ctx)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, func() { _ = drop() })
	var calls, handlers, work, carrier *pg.DB // as many of each as the server has by default
	for db, conns := range map[**pg.DB]int32{&calls: 8, &handlers: 4, &work: 5, &carrier: 4} {
		if *db, err = pg.Open(ctx, pg.Config{URL: url, MaxConns: conns}); err != nil {
			return nil, err
		}
		b.closers = append(b.closers, (*db).Close)
	}
	notifier, err := pg.NewNotifier(pg.NotifierConfig{System: work.System(), URL: url, Log: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	broker := postgres.New(carrier.System(), notifier, zap.NewNop())
	b.service = message.New(message.Config{
		DB: calls, Handlers: handlers, System: work.System(), Notifier: notifier, Broker: broker, OneLog: true, Log: zap.NewNop(), Limits: message.Limits{Pushes: 64},
		Outbound: outbound.New(outbound.Config{Allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 5 * time.Second}),
	})
	worker := message.NewWorker(message.WorkerConfig{
		Service: b.service, Drain: time.Second, Lines: zap.NewNop(),
		Tenants: func(context.Context) ([]auth.Tenant, <-chan struct{}, error) {
			return []auth.Tenant{{Name: auth.DefaultTenant}}, nil, nil
		},
	})
	b.run(func(ctx context.Context) error { notifier.Run(ctx); return nil })
	b.run(broker.Run)
	b.run(b.service.Run)
	b.run(b.service.Relay)
	b.run(worker.Run)
	return b, nil
}

// run runs a part until close.
func (b *bench) run(part func(context.Context) error) {
	b.closers = append(b.closers, command.Start(part))
}

// queue creates a queue whose messages are pushed to a URL.
func (b *bench) queue(ctx context.Context, name, url string) (message.QueueName, error) {
	q, err := message.ParseQueueName(name)
	if err != nil {
		return q, err
	}
	_, err = b.service.CreateQueue(ctx, q, message.Policy{
		MaxAttempts: 1000, MinBackoff: 50 * time.Millisecond, MaxBackoff: time.Second, Push: &message.Push{URL: url, Timeout: time.Second},
	})
	return q, err
}

// backlog is how many messages each hostile queue has.
const backlog = 200

// hostile makes paused queues with a backlog, whose endpoints are all that an endpoint should not be.
func (b *bench) hostile(ctx context.Context) (queues []message.QueueName, stop func(), err error) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	urls := map[string]string{"silent": "http://" + silent.Addr().String()}
	var servers []*httptest.Server
	for name, answer := range map[string]http.HandlerFunc{
		"slow":    func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"endless": endless,
		"half":    half,
		"header":  func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Huge", strings.Repeat("a", 1<<20)) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusTemporaryRedirect)
		},
		"broken":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"overload": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
	} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b.calls.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			answer(w, r)
		}))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.Start()
		servers, urls[name] = append(servers, server), server.URL
	}
	stop = func() {
		_ = silent.Close()
		for _, server := range servers {
			server.CloseClientConnections()
			server.Close()
		}
	}
	for name, url := range urls {
		q, err := b.queue(ctx, name, url)
		if err == nil {
			_, err = b.service.PauseQueue(ctx, q)
		}
		for i := 0; err == nil && i < backlog; i++ {
			_, err = b.service.Publish(ctx, message.Publication{To: message.ToQueue(q), Body: []byte("hostile")})
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
		queues = append(queues, q)
	}
	return queues, stop, nil
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 1<<16)); err != nil {
			return
		}
	}
}

// half closes the connection within the status line.
func half(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 2")
	_ = conn.Close()
}
