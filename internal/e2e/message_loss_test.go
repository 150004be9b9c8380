package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	messagev1 "plinth/api/plinth/message/v1"
)

// Parameters of the storm of TestNothingIsLost.
const (
	messages   = 5000 // that are answered, at least; fewer in a short storm
	publishers = 8
	recovery   = 15 * time.Second // the service takes messages again within this time
	settling   = 2 * time.Second  // within this time RabbitMQ has the name of a new queue on disk
)

// The queues of the storm: one that is published to by name, and two that get copies of what goes to a topic.
const (
	stormQueue             = "storm"
	stormTopic             = "storms"
	stormCopyA, stormCopyB = "storm-a", "storm-b"
)

// Whatever is killed or cut off, and whenever, each message that the server has answered with an id takes effect in each of
// its queues, and none takes effect twice.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	for _, broker := range []string{"postgres", "rabbitmq"} { // One after the other: a storm has many connections to PostgreSQL.
		t.Run(broker, func(t *testing.T) {
			s := newStorm(t, broker)
			s.publishUntilItIsOver()
			s.rage()
			s.publishers.Wait()
			s.arrive()
		})
	}
}

// fault is something that goes wrong. strike returns when what it broke can be used again, so that the service has nothing
// more to wait for.
type fault struct {
	name   string
	strike func()
	times  int
}

// storm is a system on which faults strike.
type storm struct {
	t        *testing.T
	env      map[string]string
	rabbitmq *rabbitNode // nil if Postgres is the broker
	proxy    *proxy      // in front of the broker
	effects  effects

	server, worker, consumer *process
	url                      atomic.Value // of the running server
	probe                    *publisher
	ledger
}

func newStorm(t *testing.T, broker string) *storm {
	s := &storm{t: t}
	if broker == "rabbitmq" {
		s.env = backends(t, "postgres")
		s.rabbitmq = startRabbitMQ(t)
		s.env["BROKER"], s.env["AMQP_URL"] = broker, s.rabbitmq.url
	} else {
		s.env = backends(t, broker)
	}
	s.probe = s.publisher("connect-json-http1")
	s.effects = newEffects(t, s.env["DATABASE_URL"])
	carrier := map[string]string{"postgres": "DATABASE_URL", "rabbitmq": "AMQP_URL"}[broker]
	s.proxy, s.env[carrier] = newProxy(t, s.env[carrier])
	s.proxy.open()
	s.startServer()
	s.startWorker()
	s.startConsumer()
	ready(t, s.url.Load().(string))
	s.makeQueues()
	return s
}

func (s *storm) makeQueues() {
	s.t.Helper()
	bindings := []*messagev1.Binding{{Topic: stormTopic, Pattern: "#"}}
	for _, req := range []*messagev1.CreateQueueRequest{
		{Name: stormQueue}, {Name: stormCopyA, Bindings: bindings}, {Name: stormCopyB, Bindings: bindings},
	} {
		// Each crash costs the messages that the consumer holds one attempt.
		req.MaxAttempts, req.MinBackoff, req.MaxBackoff = 1000, durationpb.New(10*time.Millisecond), durationpb.New(200*time.Millisecond)
		if _, err := grpcClient(s.t, s.url.Load().(string)).CreateQueue(s.t.Context(), req); err != nil {
			s.t.Fatal(err)
		}
	}
	if s.rabbitmq != nil {
		<-time.After(settling) // A younger queue does not survive the end of its only node.
	}
}

func (s *storm) startServer() {
	s.server = start(s.t, "server", s.env)
	s.url.Store("http://" + s.server.address(s.t))
}

func (s *storm) startWorker() { s.worker = start(s.t, "worker", s.env) }

func (s *storm) startConsumer() {
	s.consumer = startConsumer(s.t, s.env, stormQueue, stormCopyA, stormCopyB)
}

func (s *storm) killServer() {
	s.server.kill()
	s.startServer()
}

func (s *storm) killWorker() {
	s.worker.kill()
	s.startWorker()
}

func (s *storm) killConsumer() {
	s.consumer.kill()
	if lines, _ := s.consumer.log.from(0); slices.Contains(lines, "WARNING: DATA RACE") {
		s.t.Errorf("the consumer has a data race:\n%s", strings.Join(lines, "\n"))
	}
	s.startConsumer()
}

// terminate ends about half of the connections to the database.
func (s *storm) terminate() {
	if _, err := s.effects.db.Exec(s.t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5`); err != nil {
		s.t.Fatal(err)
	}
}

// outage returns a fault that ends RabbitMQ. Processes that start meanwhile start without it.
func (s *storm) outage(end func()) func() {
	return func() {
		end()
		s.killServer()
		s.killWorker()
		s.killConsumer()
		s.rabbitmq.start(s.t)
	}
}

// often returns how often something happens that happens n times in a long storm. A storm is long if CI is true; otherwise
// it is short, but every fault strikes.
func often(n int) int {
	if ci() {
		return n
	}
	return (n + 8) / 9
}

func (s *storm) faults() (all []fault) {
	kinds := []fault{
		{"the server is killed", s.killServer, 9}, {"the worker is killed", s.killWorker, 9}, {"the consumer is killed", s.killConsumer, 9},
		{"connections to Postgres end", s.terminate, 6}, {"the network is down", s.proxy.partition, 5},
	}
	if s.rabbitmq != nil {
		kinds = append(kinds, fault{"RabbitMQ is killed", s.outage(s.rabbitmq.crash), 1},
			fault{"RabbitMQ is stopped", s.outage(func() { s.rabbitmq.stop(s.t) }), 1})
	}
	for _, kind := range kinds {
		for range often(kind.times) {
			all = append(all, kind)
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// rage strikes with every fault, and checks that the service takes messages again soon after each.
func (s *storm) rage() {
	defer s.over.Store(true)
	began := time.Now()
	worst := map[string]time.Duration{}
	for _, fault := range s.faults() {
		<-time.After(rand.N(600 * time.Millisecond)) // A fault may strike at any moment.
		fault.strike()
		struck := time.Now()
		eventually(s.t, "after a fault the service takes messages", s.serves)
		worst[fault.name] = max(worst[fault.name], time.Since(struck).Round(time.Millisecond))
	}
	s.answerEnough()
	s.t.Logf("the storm took %s; after each fault the service took messages within %v", time.Since(began).Round(time.Second), worst)
	for name, took := range worst {
		if took > recovery {
			s.t.Errorf("when %s, it takes %s to be ready again", name, took)
		}
	}
}

// answerEnough waits for the answers that are still missing after the storm. They may take any time, but must not stop.
func (s *storm) answerEnough() {
	s.t.Helper()
	for n := s.answered(); n < often(messages); n = s.answered() {
		eventually(s.t, "more messages are answered", func() bool { return s.answered() > n })
	}
}

// serves reports whether the server is ready and takes a message.
func (s *storm) serves() bool {
	url := s.url.Load().(string)
	if statusOf(url+"/readyz") != http.StatusOK {
		return false
	}
	return s.probe.publish(&messagev1.PublishRequest{Queue: stormQueue, Payload: text(fmt.Sprint("probe ", rand.Uint64()))})
}

// arrive waits until every message that was answered has taken effect, and no message is left that might do so once more.
func (s *storm) arrive() {
	t := s.t
	ready(t, s.url.Load().(string))
	t.Logf("%d messages answered in %d places; errors: %v", s.answered(), len(s.places), s.errors)
	if len(s.errors) == 0 {
		t.Fatal("the storm proves nothing")
	}
	if len(s.wrong) > 0 {
		t.Errorf("%d calls were answered with an error that no fault excuses, among them %q", len(s.wrong), some(s.wrong))
	}
	if lost := s.awaitEffects(); len(lost) > 0 {
		t.Errorf("%d of %d are lost, among them %v", len(lost), len(s.places), some(lost))
	}
	client := grpcClient(t, s.url.Load().(string))
	for _, name := range []string{stormQueue, stormCopyA, stormCopyB} {
		eventually(t, "nothing is left in "+name, func() bool {
			q, err := client.GetQueue(t.Context(), &messagev1.GetQueueRequest{Name: name})
			if err == nil && q.GetDeadLetters() != 0 {
				t.Fatalf("%s has %d dead letters", name, q.GetDeadLetters())
			}
			return err == nil && q.GetDepth()+q.GetWaiting() == 0
		})
	}
	s.consumer.stop(t) // It finishes what it holds.
	s.worker.stop(t)
	s.server.stop(t)
	places, payloads := s.effects.seen(t)
	if twice := moreThanOnce(places); len(twice) > 0 {
		t.Errorf("%d messages took effect twice, among them %v", len(twice), some(twice))
	}
	if doubled := slices.DeleteFunc(s.keyed, func(p place) bool { return payloads[p] <= 1 }); len(doubled) > 0 {
		t.Errorf("%d payloads with an idempotency key took effect twice, among them %v", len(doubled), some(doubled))
	}
}

// awaitEffects waits as long as messages take effect, and returns those that were answered and have not.
func (s *storm) awaitEffects() (lost []place) {
	s.t.Helper()
	deadline := time.Now().Add(2 * patience)
	for before := len(s.places); ; <-time.After(200 * time.Millisecond) {
		places, _ := s.effects.seen(s.t)
		lost = s.missing(places)
		if len(lost) < before {
			before, deadline = len(lost), time.Now().Add(2*patience)
		}
		if len(lost) == 0 || time.Now().After(deadline) {
			return lost
		}
	}
}

func moreThanOnce(seen map[place]int) (twice []place) {
	for place, n := range seen {
		if n > 1 {
			twice = append(twice, place)
		}
	}
	return twice
}
