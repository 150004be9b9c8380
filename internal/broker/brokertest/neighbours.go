package brokertest

import (
	"context"
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
