package amqp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/broker"
	"plinth/internal/broker/brokertest"
	"plinth/internal/errs"
)

func TestBrokerStartsWithoutRabbitMQ(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, serverURL(t))
	p.Stop()
	b := newBroker(t, url)
	brokertest.Serve(t, b)
	brief, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	wantUnavailable(t, "Publish", b.Publish(brief, broker.Address{Queue: "any"}, message()))
	wantUnavailable(t, "Declare", b.Declare(brief, broker.Queue{Name: "any"}))
	wantUnavailable(t, "Ping", b.Ping(t.Context()))
	if g := b.Generation(); g != 0 {
		t.Errorf("generation is %d before the first connection, want 0", g)
	}

	p.start()
	queue := brokertest.Declare(t, b, broker.Queue{})
	wantSoon(t, b, queue, brokertest.Subscribe(t, b, queue, 1))
	if err := b.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v, want nil", err)
	}
}

// TestCut ends both connections in each way that a network or a server can, and expects everything to recover by itself.
func TestCut(t *testing.T) {
	t.Parallel()
	const connection, closeMethod = 10, 50
	forced := append([]byte{320 >> 8, 320 & 0xFF, 6}, "forced\x00\x00\x00\x00"...)
	for name, cut := range map[string]func(*testing.T, *proxy, *Broker){
		"closed": func(_ *testing.T, p *proxy, _ *Broker) { p.cut() },
		"reset": func(t *testing.T, p *proxy, b *Broker) {
			defer p.poison("reset_peer", map[string]any{"timeout": 0})()
			brokertest.Eventually(t, "both connections are gone", func() bool {
				return !b.publishing.up() && !b.consuming.up()
			})
		},
		"killed by the server": func(_ *testing.T, p *proxy, _ *Broker) {
			p.inject(0, connection, closeMethod, forced...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, b, queue := throughProxy(t)
			sub := brokertest.Subscribe(t, b, queue, 1)
			generation := b.Generation()
			cut(t, p, b)
			brokertest.Eventually(t, "the generation changes after the cut", func() bool { return b.Generation() > generation })
			wantSoon(t, b, queue, sub)
		})
	}
}

// TestSilentServer lets the other end vanish without closing its connections. Only its silence shows that it is gone.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	sub := brokertest.Subscribe(t, b, queue, 1)
	cure := p.silence()
	brief, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	wantUnavailable(t, "Publish", b.Publish(brief, broker.Address{Queue: queue}, message()))
	_, err := b.Ready(brief, queue)
	wantUnavailable(t, "Ready", err)
	brokertest.Eventually(t, "Ping reports the silence", func() bool { return b.Ping(t.Context()) != nil })
	cure()
	wantSoon(t, b, queue, sub)
}

// TestStandstill holds back everything that is sent, so that small publications are written but not confirmed and large ones
// are stuck in the socket. Every caller must return in its own time.
func TestStandstill(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	sub := brokertest.Subscribe(t, b, queue, 1)
	to := broker.Address{Queue: queue}
	cure := p.hold()
	began := time.Now()
	var callers sync.WaitGroup
	for i := range 40 {
		callers.Go(func() {
			m := message()
			if i%2 == 0 {
				m.Body = make([]byte, 1<<20)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			wantUnavailable(t, "Publish", b.Publish(ctx, to, m))
		})
	}
	cancelled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	if err := b.Publish(cancelled, to, message()); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish: %v, want the context's error", err)
	}
	callers.Wait()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("callers with 300 ms came back after %v", took)
	}

	began = time.Now()
	batch := []broker.Publication{{To: to, Message: message()}, {To: to, Message: message()}}
	for _, err := range b.PublishBatch(context.Background(), batch) {
		wantUnavailable(t, "PublishBatch", err)
	}
	if took := time.Since(began); took > callLimit+2*time.Second {
		t.Errorf("PublishBatch without a deadline took %v", took)
	}
	cure()
	wantSoon(t, b, queue, sub)
}

// TestStuckWriteIsGivenUp expects the client to drop, by itself, a server that reads nothing for longer than writeTimeout.
func TestStuckWriteIsGivenUp(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	b.publisher.prove(16 << 20) // Else it would be tried on a channel of its own.
	defer p.hold()()
	m := message()
	m.Body = make([]byte, 16<<20)
	began := time.Now()
	err := b.Publish(brokertest.Patient(t), broker.Address{Queue: queue}, m)
	if !errors.Is(err, errLost) {
		t.Errorf("Publish: %v, want errLost", err)
	}
	if took := time.Since(began); took > writeTimeout+2*time.Second {
		t.Errorf("the stuck write was given up after %v", took)
	}
}

// TestSlowLink expects everything to work over a slow link of high latency, without the loss of a connection.
func TestSlowLink(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	sub := brokertest.Subscribe(t, b, queue, 100)
	generation := b.Generation()
	defer p.poison("latency", map[string]any{"latency": 150, "jitter": 50})()
	defer p.poison("bandwidth", map[string]any{"rate": 300})()
	const messages = 2 * window
	batch := make([]broker.Publication, messages)
	for i := range batch {
		batch[i] = broker.Publication{To: broker.Address{Queue: queue}, Message: message()}
	}
	for _, err := range b.PublishBatch(t.Context(), batch) {
		if err != nil {
			t.Fatalf("PublishBatch: %v", err)
		}
	}
	for range messages {
		brokertest.Ack(t, brokertest.Receive(t, sub))
	}
	brokertest.WantReady(t, b, queue, 0)
	if b.Generation() != generation {
		t.Error("the connection was lost")
	}
}

func TestBlockedPublishers(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	sub := brokertest.Subscribe(t, b, queue, 1)
	to := broker.Address{Queue: queue}
	reason := "low on memory"
	const connection, blocked, unblocked = 10, 60, 61
	isBlocked := func() bool { return errors.Is(b.Ping(t.Context()), errBlocked) }
	p.inject(0, connection, blocked, append([]byte{byte(len(reason))}, reason...)...)
	brokertest.Eventually(t, "Ping reports that publishers are blocked", isBlocked)
	began := time.Now()
	if err := b.Publish(t.Context(), to, message()); !errors.Is(err, errBlocked) {
		t.Errorf("Publish: %v, want errBlocked", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("Publish was blocked for %v", took)
	}
	brokertest.ReceiveNothing(t, sub)

	p.inject(0, connection, unblocked)
	brokertest.Eventually(t, "Ping is well again", func() bool { return b.Ping(t.Context()) == nil })
	wantSoon(t, b, queue, sub)

	// The connection was blocked, and is lost. A new one is not blocked.
	p.inject(0, connection, blocked, 0)
	brokertest.Eventually(t, "Ping reports that publishers are blocked", isBlocked)
	p.cut()
	wantSoon(t, b, queue, sub)
}

// TestChannelLost makes RabbitMQ close only the publishing channel, while publications are under way. The outcome of what it
// has not confirmed then is unknown; it was not refused.
func TestChannelLost(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	sub := brokertest.Subscribe(t, b, queue, 1)
	generation := b.Generation()
	var publishers sync.WaitGroup
	for range 64 {
		publishers.Go(func() {
			for b.Generation() == generation {
				err := b.Publish(t.Context(), broker.Address{Queue: queue}, message())
				if err != nil && !errs.Is(err, errs.Unavailable) {
					t.Errorf("Publish: %v, want nil or errs.Unavailable", err)
				}
			}
		})
	}
	_, err := b.publisher.session.Load().channel.QueueDeclarePassive(queue+"-missing", true, false, false, false, nil)
	if err == nil {
		t.Fatal("a queue was found that is missing")
	}
	publishers.Wait()
	wantSoon(t, b, queue, sub)
}

// TestSubscriptionChannelLost makes RabbitMQ close a subscription's channel, by acknowledging a delivery that does not
// exist.
func TestSubscriptionChannelLost(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	sub := brokertest.Subscribe(t, b, queue, 1)
	publish(t, b, queue)
	stale := brokertest.Receive(t, sub)
	if err := stale.Settler.(*settler).channel.Ack(9999, false); err != nil {
		t.Fatal(err)
	}
	again := brokertest.Receive(t, sub)
	if again.ID != stale.ID || again.Attempt != 2 {
		t.Errorf("received %s, attempt %d, want %s again as attempt 2", again.ID, again.Attempt, stale.ID)
	}
	wantUnavailable(t, "Ack of a stale delivery", stale.Ack(t.Context()))
	brokertest.Ack(t, again)
	brokertest.WantReady(t, b, queue, 0)
}

func TestPasswordIsNotLogged(t *testing.T) {
	t.Parallel()
	const password = "pass%2Fword-s3cret"
	for _, url := range []string{"amqp://guest:pass/word-s3cret@host:5672/", "http://guest:" + password + "@host/", "amqp://a b:" + password + "@host/"} {
		_, err := New(url, zap.NewNop())
		if !errs.Is(err, errs.InvalidArgument) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("New: %v, want errs.InvalidArgument and no password", err)
		}
	}

	server := serverURL(t)
	_, host, _ := strings.Cut(server, "@")
	core, logs := observer.New(zap.DebugLevel)
	b, err := New(fmt.Sprintf("amqp://guest:%s@%s", password, host), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	brokertest.Serve(t, b)
	brokertest.Eventually(t, "the refusal is logged", func() bool { return logs.Len() >= 2 })
	for _, line := range logs.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, "s3cret") {
			t.Errorf("the log contains the password: %s", text)
		}
	}
}
