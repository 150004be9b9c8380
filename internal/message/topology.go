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
	// topicLimit bounds how long the declaration of a topic's queues takes.
	topicLimit = 10 * time.Second
	// topicFresh is how long it is relied on. A process that dies after it committed a binding, and before the broker has it,
	// leaves that to whoever declares next.
	topicFresh = time.Minute
)

// known runs use, and once more after the broker was told of the queue if it does not know it.
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

// declare has the broker follow the table in what it has of a queue. It writes no intent: where the queue is deleted meanwhile,
// what was declared too late is removed at once, and if not even that, by the second look of who deleted it.
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

func errNoQueue(queue QueueName) error {
	return errs.New(errs.NotFound, "queue: %q does not exist; create it with CreateQueue", queue)
}

// declareOnBroker makes a queue and its bindings on the broker; what is there already stays.
func (s *Service) declareOnBroker(ctx context.Context, q Queue) error {
	tenant := auth.TenantOf(ctx)
	name := q.Name.onBroker(tenant)
	if err := s.broker.Declare(ctx, broker.Queue{Name: name, MessageTTL: q.MessageTTL, MaxLength: q.MaxLength}); err != nil {
		return err
	}
	for _, b := range q.Bindings {
		if err := s.broker.Bind(ctx, name, b.onBroker(tenant)); err != nil {
			return err
		}
	}
	return nil
}

// topology remembers the topics whose queues this process has declared, all of them, and in which generation of the
// broker. A queue that is bound later is bound on the broker by whoever binds it.
type topology struct {
	declared  sync.Map // name on the broker to declaration
	declaring singleflight.Group
}

// declaration is when the queues of a topic were declared.
type declaration struct {
	generation uint64
	at         time.Time
}

// declareTopics sees to it that the broker knows every queue of the topics that the batch goes to. Where that fails, it
// fills in the outcome of what goes there.
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

// declareTopic tells the broker of every queue that is bound to the topic, once in each generation and every minute.
// Errors: NotFound where there is none.
func (s *Service) declareTopic(ctx context.Context, topic string, generation uint64) error {
	name := topicOnBroker(auth.TenantOf(ctx), topic)
	if d, ok := s.topology.declared.Load(name); ok && d.(declaration).generation == generation &&
		time.Since(d.(declaration).at) < topicFresh {
		return nil
	}
	done := s.topology.declaring.DoChan(name+" "+strconv.FormatUint(generation, 10), func() (any, error) {
		// Others wait for this too, so it does not end with the call that came first.
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

// matching gives the bindings that the routing key fits.
func matching(bindings []bound, routingKey string) []bound {
	key := words(routingKey)
	return slices.DeleteFunc(slices.Clone(bindings), func(b bound) bool { return !match(words(b.pattern), key) })
}

// queuesOf gives each queue once; bindings are in the order of their queues.
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

// match holds the words of a key against those of a pattern, as broker.Binding has it. The last "#" seen takes as few
// words as it can, and one more whenever what follows does not fit, so the work is bounded by the product of the two.
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
