package message

import (
	"context"
	"errors"
	"hash"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const (
	// queueLimit bounds the time to declare one of them.
	queueLimit = 10 * time.Second
	// topicFresh is after how long it is looked again what is bound to a topic. If a process dies after it committed a binding, and before
	// the broker has it, that adds it to the broker. topicKept is for how long it is remembered.
	topicFresh = time.Minute
	topicKept  = 10 * time.Minute
)

// patience is how long to wait for a topic's queues to be declared. Where one of several lanes may wait at a time, the others do not wait.
type patience struct {
	limit time.Duration
	alone *sync.Mutex
}

// ofCalls is the patience of a call.
var ofCalls = patience{limit: 5 * time.Second}

// relayPatience is the limit of a relay, which others wait for.
const relayPatience = 500 * time.Millisecond

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
	return s.declareBy(ctx, s.db, queue)
}

// declareBy is declare, which reads the table through db.
func (s *Service) declareBy(ctx context.Context, db pg.Querier, queue QueueName) error {
	q, err := selectQueue(ctx, db, queue)
	if err != nil {
		return err
	}
	if err := s.declareOnBroker(ctx, q); err != nil {
		return err
	}
	_, err = selectQueue(ctx, db, queue)
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
	if len(wanted) > 0 {
		if err := s.broker.Bind(ctx, name, onBroker(tenant, wanted)...); err != nil {
			return err
		}
	}
	return s.unbind(ctx, q.Name, unwanted)
}

// unbind removes bindings of a queue from the broker.
func (s *Service) unbind(ctx context.Context, queue QueueName, bindings []Binding) error {
	if len(bindings) == 0 {
		return nil
	}
	tenant := auth.TenantOf(ctx)
	return s.broker.Unbind(ctx, queue.onBroker(tenant), onBroker(tenant, bindings)...)
}

func onBroker(tenant string, bindings []Binding) []broker.Binding {
	all := make([]broker.Binding, len(bindings))
	for i, b := range bindings {
		all[i] = b.onBroker(tenant)
	}
	return all
}

// topology records the topics whose queues this process has declared, the queues that it consumes, and in which generation of the
// broker that was. A queue that is bound later is bound on the broker by the process that binds it.
type topology struct {
	consumed  sync.Map // from tenantQueue to the generation
	declared  sync.Map // from name on the broker to *declaration
	declaring singleflight.Group
}

// prune forgets what is not relied on any more: topics that were declared too long ago, and queues that nobody consumes and nothing
// went through.
func (t *topology) prune(now time.Time, used *rates) {
	t.declared.Range(func(name, d any) bool {
		if now.Sub(d.(*declaration).at) >= topicKept {
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

// declaration records which queues of a topic were declared, and when.
type declaration struct {
	generation uint64
	at         time.Time
	all        bool                 // that were bound then
	queues     map[QueueName]uint64 // those that were declared, with a hash of their bindings; it is not changed
}

// of returns what is declared of a topic in a generation.
func (t *topology) of(name string, generation uint64) declaration {
	if d, ok := t.declared.Load(name); ok && d.(*declaration).generation == generation {
		return *d.(*declaration)
	}
	return declaration{generation: generation}
}

// undeclared returns the topics of a batch whose queues were not declared in this generation. For the others, it has looked for what is new
// in the background, now and then.
func (s *Service) undeclared(ctx context.Context, generation uint64, batch []*envelope) map[tenantTopic]error {
	undeclared := map[tenantTopic]error{}
	for _, m := range batch {
		of := m.topic()
		if of.topic == "" {
			continue
		}
		switch d := s.topology.of(topicOnBroker(of.tenant, of.topic), generation); {
		case !d.all:
			undeclared[of] = nil
		case time.Since(d.at) >= topicFresh:
			s.declareBound(ctx, of, generation)
		}
	}
	return undeclared
}

// topic returns the topic that a message goes to, which is empty if it goes to a queue.
func (e *envelope) topic() tenantTopic { return tenantTopic{e.tenant, e.to.topic} }

// declareTopics has every queue declared that is bound to one of the topics, and sets their errors: NotFound if there is no queue, Unavailable if
// they are not declared in time. The declaring goes on nevertheless.
func (s *Service) declareTopics(ctx context.Context, generation uint64, topics map[tenantTopic]error, p patience) {
	if p.alone != nil && p.alone.TryLock() {
		defer p.alone.Unlock()
	} else if p.alone != nil {
		p.limit = 0
	}
	ctx, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	declaring := map[tenantTopic]<-chan singleflight.Result{}
	for of := range topics {
		declaring[of] = s.declareBound(ctx, of, generation)
	}
	for of, done := range declaring {
		select {
		case declared := <-done:
			topics[of] = declared.Err
		case <-ctx.Done():
			topics[of] = errs.Wrap(ctx.Err(), errs.Unavailable, "the queues that are bound to %q are being declared on the message broker; try again", of.topic)
		}
	}
}

// declareBound declares the queues of a topic in the background: for one with very many it takes longer than a call may.
func (s *Service) declareBound(ctx context.Context, of tenantTopic, generation uint64) <-chan singleflight.Result {
	ctx = auth.AsService(context.WithoutCancel(ctx), of.tenant)
	return s.topology.declaring.DoChan(topicOnBroker(of.tenant, of.topic)+" "+strconv.FormatUint(generation, 10), func() (any, error) {
		return nil, s.declareNew(ctx, of, generation)
	})
}

// declareNew declares the queues of a topic that this process has not declared with their bindings of now. After an error, the next one goes
// on where it ended.
func (s *Service) declareNew(ctx context.Context, of tenantTopic, generation uint64) error {
	name := topicOnBroker(of.tenant, of.topic)
	d := s.topology.of(name, generation)
	bindings, err := selectBindings(ctx, s.db, of)
	if err != nil {
		return err
	}
	wanted := hashesOf(bindings[of])
	if len(wanted) == 0 {
		return errs.New(errs.NotFound, "topic: no queue is bound to %q", of.topic)
	}
	declared := maps.Clone(wanted)
	maps.DeleteFunc(declared, func(queue QueueName, hash uint64) bool { return d.queues[queue] != hash })
	for queue, hash := range wanted {
		if declared[queue] == hash {
			continue
		}
		if err = s.declareWithin(ctx, queue); err != nil && !errs.Is(err, errs.NotFound) {
			break
		}
		declared[queue], err = hash, nil
	}
	s.topology.declared.Store(name, &declaration{generation, time.Now(), err == nil || d.all, declared})
	return err
}

// declareWithin is declare with a limit to its time.
func (s *Service) declareWithin(ctx context.Context, queue QueueName) error {
	ctx, cancel := context.WithTimeout(ctx, queueLimit)
	defer cancel()
	return s.declare(ctx, queue)
}

// hashesOf returns a hash of the patterns of each queue, which are in their order.
func hashesOf(bindings []bound) map[QueueName]uint64 {
	patterns := map[QueueName]hash.Hash64{}
	for _, b := range bindings {
		if patterns[b.queue] == nil {
			patterns[b.queue] = fnv.New64a()
		}
		_, _ = io.WriteString(patterns[b.queue], b.pattern+" ")
	}
	hashes := make(map[QueueName]uint64, len(patterns))
	for queue, of := range patterns {
		hashes[queue] = of.Sum64()
	}
	return hashes
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

// pathOf returns a routing key in the form that broker.Resembles fits.
func pathOf(routingKey string) string {
	if routingKey == "" {
		return ""
	}
	return "." + routingKey
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
