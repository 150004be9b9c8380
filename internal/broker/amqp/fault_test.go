package amqp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

func TestBrokerStartsWithoutRabbitMQ(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, serverURL(t))
	b := newBroker(t, url)
	run(t, b)

	brief, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := b.Publish(brief, "any", message()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Publish: %v, want errs.Unavailable", err)
	}
	if err := b.Declare(brief, "any"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Declare: %v, want errs.Unavailable", err)
	}
	if err := b.Ping(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Ping: %v, want errs.Unavailable", err)
	}

	p.listen()
	queue := declareQueue(t, b)
	sub := subscribe(t, b, queue, 1)
	publish(t, b, queue)
	receive(t, sub)
	if err := b.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v, want nil", err)
	}
}

// TestSilentServer stands RabbitMQ still, so that small publications are written and not confirmed, and large ones are
// stuck in the socket. Every caller must come back in its own time.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	release := p.hold()

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
			if err := b.Publish(ctx, queue, m); !errs.Is(err, errs.Unavailable) {
				t.Errorf("Publish: %v, want errs.Unavailable", err)
			}
		})
	}
	cancelled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	if err := b.Publish(cancelled, queue, message()); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish: %v, want the context's error", err)
	}
	callers.Wait()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("callers with 300 ms came back after %v", took)
	}

	began = time.Now()
	if err := b.Publish(context.Background(), queue, message()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Publish: %v, want errs.Unavailable", err)
	}
	if took := time.Since(began); took > callLimit+2*time.Second {
		t.Errorf("Publish without a deadline took %v", took)
	}

	p.cut()
	release()
	publishSoon(t, b, queue)
}

// TestStuckWriteIsGivenUp wants the client to leave a server by itself that reads nothing for longer than writeTimeout.
func TestStuckWriteIsGivenUp(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	p.hold()
	m := message()
	m.Body = make([]byte, 16<<20)
	began := time.Now()
	err := b.Publish(patient(t), queue, m)
	if !errs.Is(err, errs.Unavailable) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Publish: %v, want errs.Unavailable from the lost connection", err)
	}
	if took := time.Since(began); took > writeTimeout+2*time.Second {
		t.Errorf("the stuck write was given up after %v", took)
	}
}

// TestAbandonedPublications has more callers leave than the window holds. Those that were written keep their places
// until they are confirmed, the others are not published, and then all places are free again.
func TestAbandonedPublications(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	session := b.publisher.session.Load()
	release := p.hold()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var callers sync.WaitGroup
	for range 2 * window {
		callers.Go(func() {
			if err := b.Publish(ctx, queue, message()); !errs.Is(err, errs.Unavailable) {
				t.Errorf("Publish: %v, want errs.Unavailable", err)
			}
		})
	}
	callers.Wait()

	release()
	const more = 3 * window
	for range more {
		callers.Go(func() { publish(t, b, queue) })
	}
	callers.Wait()
	if b.publisher.session.Load() != session {
		t.Fatal("the connection was lost: the case shows nothing")
	}
	if n := len(session.unconfirmed); n > 1 { // The writer holds the place of the next publication.
		t.Errorf("%d places of the window are taken, with nothing unconfirmed", n)
	}
	wantReady(t, b, queue, window+more)
}

// TestReturnsAreTold publishes one message to two queues at once, over and over: only the one that exists may say yes.
func TestReturnsAreTold(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	missing := "brokertest-" + uuid.NewString()
	var callers sync.WaitGroup
	for range window {
		m := message()
		callers.Go(func() {
			if err := b.Publish(patient(t), queue, m); err != nil {
				t.Errorf("Publish: %v", err)
			}
		})
		callers.Go(func() {
			if err := b.Publish(patient(t), missing, m); !errors.Is(err, broker.ErrNoQueue) {
				t.Errorf("Publish to no queue: %v, want ErrNoQueue", err)
			}
		})
	}
	callers.Wait()
	wantReady(t, b, queue, window)
	if left := b.publisher.session.Load().returned; len(left) > 0 {
		t.Errorf("%d returns are kept after they were told", len(left))
	}
}

func TestBlockedPublishers(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	reason := "low on memory"
	const connection, blocked, unblocked = 10, 60, 61
	p.inject(0, connection, blocked, append([]byte{byte(len(reason))}, reason...)...)
	eventually(t, "Ping tells that publishers are blocked", func() bool {
		return errors.Is(b.Ping(t.Context()), errBlocked)
	})
	began := time.Now()
	if err := b.Publish(t.Context(), queue, message()); !errors.Is(err, errBlocked) {
		t.Errorf("Publish: %v, want errBlocked", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("Publish was blocked for %v", took)
	}
	wantReady(t, b, queue, 0)

	p.inject(0, connection, unblocked)
	eventually(t, "Ping is well again", func() bool { return b.Ping(t.Context()) == nil })
	publish(t, b, queue)

	// The block was of the connection that is lost, and does not outlive it.
	p.inject(0, connection, blocked, 0)
	eventually(t, "Ping tells that publishers are blocked", func() bool {
		return errors.Is(b.Ping(t.Context()), errBlocked)
	})
	p.cut()
	publishSoon(t, b, queue)
}

// TestChannelLost closes the publishing channel alone, as RabbitMQ does after a publication that it refuses.
func TestChannelLost(t *testing.T) {
	t.Parallel()
	p, b, queue := throughProxy(t)
	const channel, closeMethod = 20, 40
	preconditionFailed := []byte{406 >> 8, 406 & 0xFF, 0, 0, 60, 0, 40}
	p.inject(1, channel, closeMethod, preconditionFailed...)
	publishSoon(t, b, queue)
}

// TestSubscriptionChannelLost makes RabbitMQ close a subscription's channel, with an ack of a delivery that never was.
func TestSubscriptionChannelLost(t *testing.T) {
	t.Parallel()
	_, b, queue := throughProxy(t)
	sub := subscribe(t, b, queue, 1)
	publish(t, b, queue)
	stale := receive(t, sub)
	if err := stale.Settler.(*settler).channel.Ack(9999, false); err != nil {
		t.Fatal(err)
	}
	again := receive(t, sub)
	if again.ID != stale.ID {
		t.Errorf("received %s, want %s again", again.ID, stale.ID)
	}
	if err := stale.Ack(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Ack of a stale delivery: %v, want errs.Unavailable", err)
	}
	if err := again.Ack(t.Context()); err != nil {
		t.Errorf("Ack: %v", err)
	}
	wantReady(t, b, queue, 0)
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
	run(t, b)
	eventually(t, "the refusal is logged", func() bool { return logs.Len() >= 2 })
	for _, entry := range logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "s3cret") {
			t.Errorf("the log tells the password: %s", text)
		}
	}
}
