package postgres

import (
	"context"
	"encoding/json"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

// publication is a message on its way into its queues.
type publication struct {
	queue, topic, path string
	id                 string
	headers            string // JSON
	attributes         string // JSON
	body               []byte
	stored             bool
	counted            bool // its queue was full, and was counted for it
}

func (p publication) owner() string { return broker.Address{Queue: p.queue, Topic: p.topic}.Tenant() }

func (p publication) size() int { return len(p.headers) + len(p.attributes) + len(p.body) }

// Publish implements broker.Broker. It returns errs.InvalidArgument for an id that is not a UUID in the form of RFC 9562,
// and for text that is not valid UTF-8.
func (b *Broker) Publish(ctx context.Context, to broker.Address, m broker.Message) error {
	return b.submit(ctx, b.publishes, []broker.Publication{{To: to, Message: m}})[0]
}

// PublishBatch implements broker.Broker.
func (b *Broker) PublishBatch(ctx context.Context, batch []broker.Publication) []error {
	return b.submit(ctx, b.batches, batch)
}

// submit publishes what goes to queues through one batcher, and what goes to topics through that of its tenant.
func (b *Broker) submit(ctx context.Context, queues *batcher[publication], batch []broker.Publication) []error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	outcomes := make([]error, len(batch))
	parts := map[*batcher[publication]]*part{}
	for i, p := range batch {
		v, err := newPublication(p)
		if err != nil {
			outcomes[i] = err
			continue
		}
		through := queues
		if v.queue == "" {
			var leave func()
			through, leave = b.topics.enter(v.owner())
			defer leave()
		}
		if parts[through] == nil {
			parts[through] = &part{}
		}
		parts[through].add(v, i)
	}
	var publishing sync.WaitGroup
	for through, part := range parts {
		publishing.Go(func() {
			defer observe.LogPanic(b.logger)
			for i, err := range through.do(ctx, b.ended, part.publications...) {
				outcomes[part.places[i]] = err
			}
		})
	}
	publishing.Wait()
	return outcomes
}

// part is what of a caller's batch goes through one batcher.
type part struct {
	publications []publication
	places       []int // in the caller's batch
}

func (p *part) add(v publication, place int) {
	p.publications, p.places = append(p.publications, v), append(p.places, place)
}

// newPublication refuses what the database would refuse: the database would refuse everything else in the same statement
// with it.
func newPublication(p broker.Publication) (publication, error) {
	if id, err := uuid.Parse(p.ID); err != nil || id.String() != p.ID {
		return publication{}, errs.New(errs.InvalidArgument, "the message id is not a UUID")
	}
	for what, text := range map[string]string{"queue": p.To.Queue, "topic": p.To.Topic, "routing_key": p.To.RoutingKey} {
		if !pg.IsText(text) {
			return publication{}, errs.New(errs.InvalidArgument, "%s is not valid UTF-8, or has the character U+0000", what)
		}
	}
	headers, err := object("header", p.Headers)
	if err != nil {
		return publication{}, err
	}
	attributes, err := object("attribute", p.Attributes)
	return publication{
		queue:      p.To.Queue,
		topic:      p.To.Topic,
		path:       pathOf(p.To.RoutingKey),
		id:         p.ID,
		headers:    headers,
		attributes: attributes,
		stored:     p.Stored,
		body:       append([]byte{}, p.Body...), // never nil, which is NULL; the caller may give up and reuse it
	}, err
}

// object returns strings as a JSON object.
func object(what string, values map[string]string) (string, error) {
	for key, value := range values {
		if !utf8.ValidString(key) || !utf8.ValidString(value) {
			return "", errs.New(errs.InvalidArgument, "%s %q is not valid UTF-8", what, key)
		}
	}
	text, err := json.Marshal(values)
	return string(text), err
}

// publish stores a batch and answers each of its callers.
func (b *Broker) publish(ctx context.Context, batch []call[publication]) {
	copies, err := insertMessages(ctx, b.db, batch)
	if err != nil {
		if err = away(err); errs.Is(err, errs.Unavailable) {
			err = broker.Lost(err) // It may be committed.
		}
		for _, c := range batch {
			c.done <- err
		}
		return
	}
	found, full := make([]bool, len(batch)), make([][]int64, len(batch))
	for _, p := range copies {
		found[p.n] = true
		if p.kept {
			b.notify(p.queue)
		} else {
			full[p.n] = append(full[p.n], p.queue)
		}
	}
	counting := map[int64][]call[publication]{} // what is published again after each count
	for i, c := range batch {
		switch {
		case !found[i]:
			c.done <- broker.ErrNoQueue
		case len(full[i]) == 0:
			c.done <- nil
		case c.value.counted:
			c.done <- broker.ErrFull
		case c.value.topic == "" && b.mayCount(full[i][0], counting):
			c.value.counted = true
			counting[full[i][0]] = append(counting[full[i][0]], c)
		default: // Other queues of the topic may have it, so it is not published again.
			c.done <- broker.ErrFull
			for _, queue := range full[i] {
				if b.mayCount(queue, counting) && counting[queue] == nil {
					counting[queue] = []call[publication]{}
				}
			}
		}
	}
	for queue, calls := range counting {
		go b.count(queue, calls)
	}
}

const (
	minCount = time.Millisecond
	// countShare is how many times as long as counting takes a queue is left alone afterwards.
	countShare = 20
)

// mayCount reports whether the messages of a full queue may be counted, now or by the count that is about to begin.
func (b *Broker) mayCount(queue int64, counting map[int64][]call[publication]) bool {
	if counting[queue] != nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Now().Before(b.rooms[queue]) {
		return false
	}
	b.rooms[queue] = time.Now().Add(callLimit)
	return true
}

// count finds out how much room a full queue has by now, and then has the refused messages published again, once. Meanwhile
// the publisher goes on.
func (b *Broker) count(queue int64, calls []call[publication]) {
	defer observe.LogPanic(b.logger)
	began := time.Now()
	ctx, cancel := bounded(context.Background())
	defer cancel()
	err := countRoom(ctx, b.db, queue)
	wait := max(minCount, countShare*time.Since(began))
	b.mu.Lock()
	b.rooms[queue] = time.Now().Add(wait)
	b.mu.Unlock()
	time.AfterFunc(wait, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !time.Now().Before(b.rooms[queue]) {
			delete(b.rooms, queue)
		}
	})
	for _, c := range calls {
		if err == nil {
			select {
			case b.publishes.calls <- []call[publication]{c}:
				continue
			case <-c.ctx.Done():
			case <-b.ended:
			}
		}
		c.done <- broker.ErrFull
	}
}
