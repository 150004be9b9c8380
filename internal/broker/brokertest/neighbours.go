package brokertest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
)

// testHashes binds with patterns that a broker could match for minutes.
func testHashes(t *testing.T, open Open) {
	c := start(t, open)
	queue, topic := Declare(t, c, broker.Queue{}), TopicName()
	for _, pattern := range []string{"#.a.#.b.#", strings.Repeat("#.", 6) + "z", strings.Repeat("#.a.", 20) + "z"} {
		err := c.Bind(Patient(t), queue, broker.Binding{Topic: topic, Pattern: pattern})
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("Bind with %s: %v, want errs.InvalidArgument", pattern, err)
		}
		if err := c.Unbind(Patient(t), queue, broker.Binding{Topic: topic, Pattern: pattern}); err != nil {
			t.Errorf("Unbind of %s: %v", pattern, err)
		}
	}
	Bind(t, c, queue, topic, "#.a.#")
	long := strings.Repeat("b.", 50)
	PublishTo(t, c, broker.Address{Topic: topic, RoutingKey: long + "a." + long + "b"}, "matches")
	WantReady(t, c, queue, 1)
}

// testTurns has one tenant publish in large batches without end, and measures by its own messages how long another waits:
// only a few of the first one's go before each of them.
func testTurns(t *testing.T, open Open) {
	const callers, size, most = 16, 1000, 2000
	c := start(t, open)
	greedy, modest := tenantQueue(t, c), tenantQueue(t, c)
	publishing, stop := context.WithCancel(Patient(t))
	var group sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range callers {
		group.Go(func() {
			own := make([]broker.Publication, size)
			for publishing.Err() == nil {
				for i := range own {
					own[i] = broker.Publication{To: broker.Address{Queue: greedy}, Message: Message("one of many")}
				}
				c.PublishBatch(publishing, own)
				mu.Lock()
				done += size
				mu.Unlock()
			}
		})
	}
	defer group.Wait()
	defer stop()
	count := func() int { mu.Lock(); defer mu.Unlock(); return done }
	Eventually(t, "the batches are under way", func() bool { return count() > 0 })
	for range 5 {
		before := count()
		Publish(t, c, modest, "in between")
		// A batch counts when it is complete, so as many as there are callers may have been nearly so.
		if went := count() - before; went > most+callers*size/2 {
			t.Errorf("%d messages of another tenant went before one", went)
		}
	}
}

// testComesAndGoes declares and deletes one queue again and again while it is published to, also by a topic, and received from. What is
// published there may come too early or too late, or be refused by the queue that goes; another tenant, of the same process, notices
// nothing.
func testComesAndGoes(t *testing.T, open Open) {
	const times, publishers = 109, 4
	c := start(t, open)
	calm, hasty := tenantQueue(t, c), QueueName(t, c)
	binding := broker.Binding{Topic: TopicName(), Pattern: "#"}
	taken := Take(t, c, calm, 50, 0)
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for _, to := range []broker.Address{{Queue: hasty}, {Topic: binding.Topic, RoutingKey: "a"}} {
		for range publishers {
			group.Go(func() {
				for ctx.Err() == nil {
					err := c.Publish(ctx, to, Message("to one that comes and goes"))
					if err != nil && ctx.Err() == nil && !errors.Is(err, broker.ErrNoQueue) && !errors.Is(err, broker.ErrFull) {
						t.Errorf("Publish to a queue that comes and goes: %v, want nil, broker.ErrNoQueue or broker.ErrFull", err)
					}
				}
			})
		}
	}
	sent := int64(0)
	for range times {
		Declare(t, c, broker.Queue{Name: hasty})
		Bind(t, c, hasty, binding.Topic, binding.Pattern)
		sub, err := c.Subscribe(Patient(t), hasty, 10)
		if err != nil {
			t.Fatalf("Subscribe: %v", err)
		}
		Publish(t, c, calm, "in between")
		if err := insist(func(ctx context.Context) error {
			return errors.Join(c.Unbind(ctx, hasty, binding), c.Delete(ctx, hasty))
		}); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		Publish(t, c, calm, "in between", "and after")
		sub.Close()
		sent += 3
	}
	Eventually(t, "the other tenant has its messages", func() bool { return taken.Load() == sent })
}

// tenantQueue declares a queue of a tenant of its own.
func tenantQueue(t *testing.T, c client) string {
	t.Helper()
	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "") + ".queue"
	t.Cleanup(func() {
		if err := insist(func(ctx context.Context) error { return c.Delete(ctx, name) }); err != nil {
			t.Errorf("Delete in cleanup: %v", err)
		}
	})
	return Declare(t, c, broker.Queue{Name: name})
}
