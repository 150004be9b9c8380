package message

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
)

const (
	// topicLimit bounds the time to declare a topic's queues.
	topicLimit = 10 * time.Second
	// topicFresh is for how long such a declaration is relied on. If a process dies after it committed a binding, and before
	// the broker has it, the next declaration adds it to the broker.
	topicFresh = time.Minute
)

// onDeclared calls use. If the broker does not know the queue, it calls declare and then use once more.
func onDeclared(ctx context.Context, queue QueueName, declare func(context.Context, QueueName) error, use func() error) error {
	err := use()
	if !errors.Is(err, broker.ErrNoQueue) {
		return err
	}
	if err := declare(ctx, queue); err != nil {
		return err
	}
	return use()
}

// declare brings the broker to what the table says of a queue. It writes no intent: if the queue is deleted meanwhile,
// declare removes it from the broker again; if that fails, the second look of the process that deleted the queue does.
func (s *Service) declare(ctx context.Context, queue QueueName) error {
	q, err := selectQueue(ctx, s.db, queue)
	if err != nil {
		return err
	}
	if err := s.declareOnBroker(ctx, q); err != nil {
		return err
	}
	_, err = selectQueue(ctx, s.db, queue)
	if errs.Is(err, errs.NotFound) {
		if err := s.broker.Delete(ctx, queue.onBroker(auth.TenantOf(ctx))); err != nil {
			return err
		}
	}
	return err
}

// declareOnce declares a queue that is about to be consumed, once in each generation of the broker: what a server that was
// upgraded makes of an older queue is found out before messages are lost by it. An error is left to the subscription.
func (s *Service) declareOnce(ctx context.Context, queue tenantQueue) {
	generation := s.broker.Generation()
	if before, known := s.topology.consumed.Load(queue); known && before == generation {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pauseRead)
	defer cancel()
	if s.declare(ctx, queue.queue) == nil {
		s.topology.consumed.Store(queue, generation)
	}
}

func errNoQueue(queue QueueName) error {
	return errs.New(errs.NotFound, "queue: %q does not exist; create it with CreateQueue", queue)
}

// declareOnBroker creates a queue and its bindings on the broker; what exists already stays.
func (s *Service) declareOnBroker(ctx context.Context, q Queue) error {
	tenant := auth.TenantOf(ctx)
	name := q.Name.onBroker(tenant)
	if err := s.broker.Declare(ctx, broker.Queue{Name: name, MessageTTL: q.MessageTTL, MaxLength: q.MaxLength}); err != nil {
		return err
	}
	wanted, unwanted := q.effective()
	for _, b := range wanted {
		if err := s.broker.Bind(ctx, name, b.onBroker(tenant)); err != nil {
			return err
		}
	}
	for _, b := range unwanted {
		if err := s.broker.Unbind(ctx, name, b.onBroker(tenant)); err != nil {
			return err
		}
	}
	return nil
}

// topology records the topics all of whose queues this process has declared, the queues that it consumes, and in which
// generation of the broker that was. A queue that is bound later is bound on the broker by the process that binds it.
type topology struct {
	consumed  sync.Map // from tenantQueue to the generation
	declared  sync.Map // from name on the broker to declaration
	declaring singleflight.Group
}

// prune forgets what is not relied on any more: topics that were declared too long ago, and queues that nobody consumes and nothing
// went through.
func (t *topology) prune(now time.Time, used *rates) {
	t.declared.Range(func(name, d any) bool {
		if now.Sub(d.(declaration).at) >= topicFresh {
			t.declared.CompareAndDelete(name, d)
		}
		return true
	})
	t.consumed.Range(func(queue, generation any) bool {
		if _, ok := used.queues.Load(queue); !ok {
			t.consumed.CompareAndDelete(queue, generation)
		}
		return true
	})
}

// declaration records when the queues of a topic were declared.
type declaration struct {
	generation uint64
	at         time.Time
}

// declareTopics declares every queue of the topics that the batch goes to. If that fails for a topic, it sets the
// outcomes of the messages to that topic.
func (s *Service) declareTopics(ctx context.Context, generation uint64, batch []*envelope, outcomes []error) {
	topics := map[string]error{}
	for i, m := range batch {
		if m.to.topic == "" {
			continue
		}
		name := topicOnBroker(m.tenant, m.to.topic)
		err, done := topics[name]
		if !done {
			err = s.declareTopic(auth.AsService(ctx, m.tenant), m.to.topic, generation)
			topics[name] = err
		}
		outcomes[i] = err
	}
}

// declareTopic declares every queue that is bound to the topic, once in each generation and every minute. Errors:
// NotFound if there is none.
func (s *Service) declareTopic(ctx context.Context, topic string, generation uint64) error {
	name := topicOnBroker(auth.TenantOf(ctx), topic)
	if d, ok := s.topology.declared.Load(name); ok && d.(declaration).generation == generation &&
		time.Since(d.(declaration).at) < topicFresh {
		return nil
	}
	done := s.topology.declaring.DoChan(name+" "+strconv.FormatUint(generation, 10), func() (any, error) {
		// Other calls wait for this too, so it does not end with the call that came first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), topicLimit)
		defer cancel()
		of := tenantTopic{auth.TenantOf(ctx), topic}
		bindings, err := selectBindings(ctx, s.db, of)
		if err != nil {
			return nil, err
		}
		if len(bindings) == 0 {
			return nil, errs.New(errs.NotFound, "topic: no queue is bound to %q", topic)
		}
		for _, queue := range queuesOf(bindings[of]) {
			if err := s.declare(ctx, queue); err != nil && !errs.Is(err, errs.NotFound) {
				return nil, err
			}
		}
		s.topology.declared.Store(name, declaration{generation, time.Now()})
		return nil, nil
	})
	select {
	case declared := <-done:
		return declared.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func errNoMatch(to Destination) error {
	return errs.New(errs.NotFound, "routing_key: no queue is bound to the topic %q with a pattern that matches %q", to.topic, to.routingKey)
}

func errNotAll(to Destination) error {
	return errs.New(errs.Unavailable, "the message broker came back meanwhile; not every queue that is bound to %q may have the message", to.topic)
}

// bound is a queue with a binding to a topic.
type bound struct {
	queue   QueueName
	pattern string
}

// matching returns the bindings whose pattern matches the routing key.
func matching(bindings []bound, routingKey string) []bound {
	key := words(routingKey)
	return slices.DeleteFunc(slices.Clone(bindings), func(b bound) bool {
		e, ok := Binding{Pattern: b.pattern}.effective()
		return !ok || !match(words(e.Pattern), key)
	})
}

// queuesOf returns each queue once. The bindings must be in the order of their queues.
func queuesOf(bindings []bound) []QueueName {
	queues := make([]QueueName, len(bindings))
	for i, b := range bindings {
		queues[i] = b.queue
	}
	return slices.Compact(queues)
}

func words(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ".")
}

// match reports whether the words of a key match those of a pattern, as broker.Binding defines it. The last "#" seen
// takes as few words as possible, and one more each time the rest does not match, so the work is bounded by the product
// of the two lengths.
func match(pattern, key []string) bool {
	p, k, hash, taken := 0, 0, -1, 0
	for k < len(key) {
		switch {
		case p < len(pattern) && pattern[p] == "#":
			hash, taken = p, k
			p++
		case p < len(pattern) && (pattern[p] == "*" || pattern[p] == key[k]):
			p, k = p+1, k+1
		case hash >= 0:
			taken++
			p, k = hash+1, taken
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "#" {
		p++
	}
	return p == len(pattern)
}
