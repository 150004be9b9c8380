package message_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/message"
)

func TestTwoRelaysLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	f.relay(t)
	f.relay(t)
	const writers, each = 4, 500
	var mu sync.Mutex
	want := map[string]int{}
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for n := range each / 10 {
				var batch []message.Publication
				for range 10 {
					batch = append(batch, to(q, strconv.Itoa(n)))
				}
				ids := f.publishTx(t, batch...)
				mu.Lock()
				for _, id := range ids {
					want[id]++
				}
				mu.Unlock()
			}
		})
	}
	deliveries := f.raw(t, "orders")
	group.Wait()
	got := map[string]int{}
	for range writers * each {
		got[take(t, deliveries).ID]++
	}
	empty(t, deliveries)
	if !maps.Equal(got, want) {
		t.Errorf("%d ids came, want %d, each once", len(got), len(want))
	}
	f.drained(t)
}

// TestRelaysDoNotWaitForEachOther makes the broker hold up one batch.
func TestRelaysDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	entered, leave := make(chan struct{}), make(chan struct{})
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		if string(batch[0].Body) == "slow" {
			close(entered)
			<-leave
		}
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	f.relay(t)
	deliveries := f.raw(t, "orders")
	f.publishTx(t, to(q, "slow"))
	<-entered
	f.publishTx(t, to(q, "fast"))
	if d := take(t, deliveries); string(d.Body) != "fast" {
		t.Errorf("%q came first", d.Body)
	}
	close(leave)
	if d := take(t, deliveries); string(d.Body) != "slow" {
		t.Errorf("%q came", d.Body)
	}
}

// What is in the lanes of a process is told for as long as it is.
func TestStateOfLanes(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	orders, bills := f.queue(t, "orders"), f.queue(t, "bills")
	leave := make(chan struct{})
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		<-leave
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	lanes := func() []message.LaneState { return f.ProcessState().(message.ProcessState).Relaying }
	if all := lanes(); all == nil || len(all) != 0 {
		t.Errorf("before: %+v", all)
	}
	began := time.Now().Add(-time.Second)
	f.publishTx(t, to(orders, "1"), to(bills, "2"), to(orders, "3"))
	f.relay(t)
	var all []message.LaneState
	eventually(t, "a batch is in a lane", func() bool { all = lanes(); return len(all) > 0 })
	if len(all) != 1 || all[0].Messages != 3 || all[0].StartTime.Before(began) || all[0].Others != 0 || len(all[0].Destinations) != 2 {
		t.Fatalf("%+v", all)
	}
	for i, want := range []struct {
		queue    string
		messages int
	}{{"orders", 2}, {"bills", 1}} {
		d := all[0].Destinations[i]
		if d.Queue != want.queue || d.Messages != want.messages || d.Tenant == "" || d.PublishTime.Before(began) {
			t.Errorf("%+v", d)
		}
	}
	close(leave)
	eventually(t, "the lanes are empty", func() bool { return len(lanes()) == 0 })
	f.drained(t)
}

func TestRelayIsWokenByACommit(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	f.relay(t)
	deliveries := f.raw(t, "orders")
	f.publishTx(t, to(q, "warm"))
	take(t, deliveries)
	var took []time.Duration
	for range 20 {
		start := time.Now()
		f.publishTx(t, to(q, "a"))
		take(t, deliveries)
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	// Without notifications the median would be half of the poll's two seconds.
	if median := took[len(took)/2]; median > 500*time.Millisecond {
		t.Errorf("it takes %v from commit to delivery", median)
	}
}

func TestRelayWaitsUntilMessagesAreDue(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	f.relay(t)
	deliveries := f.raw(t, "orders")
	f.publishTx(t, to(q, "warm"))
	take(t, deliveries)
	var late []time.Duration
	for n := range 9 {
		p := message.Publication{To: message.ToQueue(q)}
		due := time.Now().Add(250 * time.Millisecond)
		if n%2 == 0 {
			p.Delay = time.Until(due)
		} else {
			p.DeliverAt = due
		}
		if _, err := f.Publish(within(t), p); err != nil {
			t.Fatal(err)
		}
		take(t, deliveries)
		if d := time.Since(due); d < -time.Millisecond {
			t.Errorf("message %d came %v before it was due", n, -d)
		} else {
			late = append(late, d)
		}
	}
	slices.Sort(late)
	// With polls alone the median would be half of their two seconds.
	if len(late) > 0 && late[len(late)/2] > 500*time.Millisecond {
		t.Errorf("messages come late: %v", late)
	}
	far := message.Publication{To: message.ToQueue(q), Delay: time.Hour}
	if _, err := f.Publish(within(t), far); err != nil {
		t.Fatal(err)
	}
	empty(t, deliveries)
}

func TestRelayBoundsABatch(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	var most atomic.Int64
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		size := int64(0)
		for _, p := range batch {
			size += int64(len(p.Body))
		}
		most.Store(max(most.Load(), size))
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	const sizes = 1 << 20
	for range 12 {
		f.publishTx(t, to(q, strings.Repeat("x", sizes)))
	}
	f.publishTx(t, to(q, strings.Repeat("x", message.MaxBytes)))
	f.relay(t)
	f.drained(t)
	if n := most.Load(); n < sizes || n > 7<<20 { // The last one of a batch may pass the 4 MiB.
		t.Errorf("a batch of %d bytes", n)
	}
}

// TestRelayFinishesWhatItHolds stops the relay while the broker is slow.
func TestRelayFinishesWhatItHolds(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	entered, leave := make(chan struct{}), make(chan struct{})
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		close(entered)
		<-leave
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	stop := f.relay(t)
	ids := f.publishTx(t, to(q, "a"))
	<-entered
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	select {
	case <-stopped:
		t.Fatal("the relay ended with a batch in hand")
	case <-time.After(100 * time.Millisecond):
	}
	close(leave)
	<-stopped
	if n := f.waiting(t); n != 0 {
		t.Errorf("%d wait after the drain", n)
	}
	if d := take(t, f.raw(t, "orders")); d.ID != ids[0] {
		t.Errorf("%s came", d.ID)
	}
}

func TestRelayKeepsTheOrderAndThePast(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	var want []string
	for n := range 50 {
		want = append(want, f.publishTx(t, to(q, strconv.Itoa(n)))...)
	}
	id := uuid.Must(uuid.NewV7()).String()
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, attempts, reason, first_failed_at, headers, attributes, body)
		VALUES ('default', $1::text::uuid, 'orders', now(), 3, 'no way', '2026-01-02 03:04:05.678Z', '{"traceparent":"t"}', '{"a":"b\u0000"}', 'x')`, id)
	f.relay(t)
	deliveries := f.raw(t, "orders")
	var got []string
	for range want {
		got = append(got, take(t, deliveries).ID)
	}
	if !slices.Equal(got, want) {
		t.Error("messages that were due one after the other do not come in that order")
	}
	d := take(t, deliveries)
	past := map[string]string{
		"tenant": "default", "attempts": "3", "reason": "no way", "first-failed-at": "2026-01-02T03:04:05.678Z", "traceparent": "t",
	}
	if d.ID != id || !maps.Equal(d.Headers, past) || d.Attributes["a"] != "b\x00" {
		t.Errorf("%+v", d)
	}
}

// TestCancelOfAMessageOnItsWay cancels while the broker has not answered.
func TestCancelOfAMessageOnItsWay(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{true, false} {
		t.Run(fmt.Sprint(sent), func(t *testing.T) {
			t.Parallel()
			f := newTroubled(t)
			q := f.queue(t, "orders")
			entered, leave := make(chan struct{}), make(chan struct{})
			var once sync.Once
			f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
				once.Do(func() { close(entered) })
				<-leave
				if sent {
					return f.trouble.Broker.PublishBatch(ctx, batch)
				}
				return each(batch, errors.New("not now"))
			})
			f.relay(t)
			id := f.publishTx(t, to(q, "a"))[0]
			<-entered
			cancelled := make(chan error, 1)
			go func() { cancelled <- f.CancelMessage(within(t), id) }()
			select {
			case err := <-cancelled:
				t.Fatalf("cancelled while on its way: %v", err)
			case <-time.After(200 * time.Millisecond):
			}
			close(leave)
			if err := <-cancelled; sent != errs.Is(err, errs.NotFound) || !sent && err != nil {
				t.Errorf("cancelled: %v", err)
			}
			deliveries := f.raw(t, "orders")
			if sent {
				take(t, deliveries)
			}
			empty(t, deliveries)
			f.drained(t)
		})
	}
}

func TestRelayBeginsWithWhatIsLongestDue(t *testing.T) {
	t.Parallel()
	f := newTroubled(t)
	q := f.queue(t, "orders")
	id := f.publishTx(t, to(q, "first"))[0]
	f.fill(t, "orders")
	var calls, at atomic.Int32
	f.trouble.publishes(func(ctx context.Context, batch []broker.Publication) []error {
		n := calls.Add(1)
		if slices.ContainsFunc(batch, func(p broker.Publication) bool { return p.ID == id }) {
			at.Store(n)
		}
		return f.trouble.Broker.PublishBatch(ctx, batch)
	})
	f.relay(t)
	f.drained(t)
	if n := at.Load(); n < 1 || n > 3 || calls.Load() < 4 { // Three batches may be on their way at a time.
		t.Errorf("the oldest message was in batch %d of %d", n, calls.Load())
	}
}
