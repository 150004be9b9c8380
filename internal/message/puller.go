package message

import (
	"container/list"
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
)

const (
	// maxPullCredit bounds the messages, and pullAhead roughly the bytes, that a process takes from one queue at a time for polls.
	maxPullCredit = 1000
	pullAhead     = 16 << 20

	// openLimit bounds one attempt to subscribe.
	openLimit = 5 * time.Second
)

// pullers has the pullers of this process.
type pullers struct {
	service *Service

	mu     sync.Mutex // guards everything below, the pullers, their polls and their flows
	queues map[tenantQueue]*puller
	waking bool // the relay will be woken soon
}

// puller receives the messages of one queue for the polls that wait for them. It exists for as long as there are any.
//
// It has one subscription at a time, called a flow, whose credit is never more than what the polls still want and what was
// received and is not settled: the broker never sends what nobody waits for. When polls leave, or before acks make room for more, a flow
// that could bring too much is stopped, and another one begins if polls are left.
type puller struct {
	of *pullers
	tenantQueue
	polls   list.List // of *poll, in the order of their arrival
	wanted  int       // messages that the polls may still take
	size    int       // of a message in bytes, a moving average
	flow    *flow     // nil while there is none that takes messages
	trouble error     // why there is none
}

// poll is a call of Pull that waits for messages.
type poll struct {
	place *list.Element // in puller.polls; nil once it takes no more
	room  int
	bytes int
	batch []taken
	first chan struct{} // closed when the first message is there
	full  chan struct{} // closed when it takes no more, because it is full or the queue is gone
	err   error         // why the queue is gone; read after full is closed
}

// taken is a delivery that was received for a poll.
type taken struct {
	broker.Delivery
	flow *flow
}

// flow is a subscription of a puller.
type flow struct {
	source  *source
	credit  int
	held    int // received and not about to be settled
	stop    context.CancelFunc
	stopped chan struct{} // closed when nothing more comes
	spare   []taken       // came when nobody waited
}

func (s *Service) newPullers() *pullers {
	return &pullers{service: s, queues: map[tenantQueue]*puller{}}
}

// join has a new poll wait for up to room messages of a queue.
func (ps *pullers) join(queue tenantQueue, room int) (*puller, *poll) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.queues[queue]
	if p == nil {
		p = &puller{of: ps, tenantQueue: queue}
		ps.queues[queue] = p
		defer func() { go p.run() }()
	}
	c := &poll{room: room, first: make(chan struct{}), full: make(chan struct{})}
	c.place = p.polls.PushBack(c)
	p.wanted += room
	p.fit()
	return p, c
}

// leave ends a poll and returns what it has. err is why it has nothing, if there is a reason other than that nothing came.
func (p *puller) leave(c *poll) (batch []taken, err error) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.remove(c)
	p.fit()
	switch {
	case len(c.batch) > 0:
		return c.batch, nil
	case c.err != nil:
		return nil, c.err
	default:
		return nil, p.trouble
	}
}

// remove has a poll take no more. The caller must hold mu, and call fit.
func (p *puller) remove(c *poll) {
	if c.place != nil {
		p.polls.Remove(c.place)
		c.place = nil
		p.wanted -= c.room
	}
}

// fit stops the flow if it may bring more than the polls take, or has far less credit than they could use. The caller must hold
// mu.
func (p *puller) fit() {
	f := p.flow
	if f == nil {
		return
	}
	tooMuch, tooLittle := f.credit > p.wanted+f.held, 2*f.credit <= p.nextCredit()
	if tooMuch || tooLittle {
		p.flow = nil
		f.stop()
	}
}

// nextCredit returns the credit for a new flow. It is half of what several polls want, so that it still fits when some of them have
// left. The caller must hold mu.
func (p *puller) nextCredit() int {
	credit := p.wanted
	if p.polls.Len() > 1 {
		credit /= 2
	}
	most := maxPullCredit
	if p.size > 0 {
		most = min(most, pullAhead/p.size)
	}
	return max(1, min(credit, most))
}

// run receives for as long as polls wait.
func (p *puller) run() {
	defer observe.LogPanic(p.of.service.log)
	backoff := loop.Backoff{Min: minReconnect / 10, Max: minReconnect}
	for {
		credit, ended := p.begin()
		if ended {
			return
		}
		f, err := p.open(credit)
		if err == nil {
			backoff.Reset()
			err = p.receive(f)
			go p.finish(f)
		}
		switch {
		case errs.Is(err, errs.NotFound):
			p.refuse(err)
		case err != nil:
			p.setTrouble(err)
			loop.Sleep(context.Background(), backoff.Next())
		}
	}
}

// begin returns the credit of the next flow. The puller ends if nobody waits.
func (p *puller) begin() (credit int, ended bool) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.polls.Len() == 0 {
		delete(p.of.queues, p.tenantQueue)
		return 0, true
	}
	return p.nextCredit(), false
}

// open subscribes.
func (p *puller) open(credit int) (*flow, error) {
	ctx := auth.AsService(context.Background(), p.tenant)
	life, stop := context.WithCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	src, err := p.of.service.open(ctx, life, p.queue, credit)
	if err != nil {
		stop()
		return nil, err
	}
	f := &flow{source: src, credit: credit, stop: stop, stopped: make(chan struct{})}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.flow, p.trouble = f, nil
	p.fit() // Polls may have left meanwhile.
	return f, nil
}

// receive hands out what comes until the flow is stopped or its queue is gone, and returns why the latter. Then nothing more comes.
func (p *puller) receive(f *flow) error {
	defer close(f.stopped)
	var d broker.Delivery
	var err error
	for {
		if d, err = f.source.Receive(); err != nil {
			break
		}
		p.arrive(f, d)
	}
	if f.source.life.Err() != nil {
		err = nil
	}
	for _, d := range f.source.drain() {
		p.arrive(f, d)
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.flow == f {
		p.flow = nil
	}
	return err
}

// arrive hands out a message that was received.
func (p *puller) arrive(f *flow, d broker.Delivery) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	f.held++
	size := sizeOf(d)
	p.size += (size - p.size) / 8
	t := taken{d, f}
	if !p.hand(t, size) {
		f.spare = append(f.spare, t)
	}
	p.fit()
}

// hand gives a message to the first poll that has room for it, and reports whether there is one. The caller must hold mu.
func (p *puller) hand(t taken, size int) bool {
	for e := p.polls.Front(); e != nil; e = p.polls.Front() {
		c := e.Value.(*poll)
		if len(c.batch) > 0 && c.bytes+size > maxBatchBytes {
			p.remove(c)
			close(c.full)
			continue
		}
		if len(c.batch) == 0 {
			close(c.first)
		}
		c.batch, c.bytes = append(c.batch, t), c.bytes+size
		c.room--
		p.wanted--
		if c.room == 0 {
			p.remove(c)
			close(c.full)
		}
		return true
	}
	return false
}

func sizeOf(d broker.Delivery) int { return Message{Body: d.Body, Attributes: d.Attributes}.size() }

// refuse ends all polls, because the queue is gone.
func (p *puller) refuse(err error) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	for e := p.polls.Front(); e != nil; e = p.polls.Front() {
		c := e.Value.(*poll)
		c.err = err
		p.remove(c)
		close(c.full)
	}
}

func (p *puller) setTrouble(err error) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.trouble = err
}

// finish gives back what nobody waited for, and ends the subscription once everything is settled.
func (p *puller) finish(f *flow) {
	defer observe.LogPanic(p.of.service.log)
	p.of.mu.Lock()
	spare := f.spare
	f.spare = nil
	p.of.mu.Unlock()
	p.giveBack(spare)
	for f.source.outstanding.Load() > 0 {
		<-f.source.freed
	}
	f.source.Close()
}

// settling says that deliveries are about to be settled. If that makes room for messages that nobody waits for, it first has their flow
// stopped.
func (p *puller) settling(batch []taken) {
	var stopped []*flow
	p.of.mu.Lock()
	for _, t := range batch {
		t.flow.held--
	}
	p.fit()
	for _, t := range batch {
		if n := len(stopped); t.flow != p.flow && (n == 0 || stopped[n-1] != t.flow) {
			stopped = append(stopped, t.flow)
		}
	}
	p.of.mu.Unlock()
	for _, f := range stopped {
		<-f.stopped
	}
}

// giveBack returns messages without counting an attempt: to other polls that wait, or else to their queue.
func (p *puller) giveBack(batch []taken) {
	if paused, _ := p.of.service.pauses.of(p.tenantQueue); !paused {
		batch = p.offer(batch)
	}
	p.settling(batch)
	bySource := map[*source][]broker.Delivery{}
	for _, t := range batch {
		bySource[t.flow.source] = append(bySource[t.flow.source], t.Delivery)
	}
	for src, deliveries := range bySource {
		src.giveBack(deliveries...)
	}
}

// offer hands messages to polls that wait, and returns those for which there is none.
func (p *puller) offer(batch []taken) (left []taken) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	for _, t := range batch {
		if !p.hand(t, sizeOf(t.Delivery)) {
			left = append(left, t)
		}
	}
	return left
}

func (t taken) ack(ctx context.Context) error  { return t.Ack(ctx) }
func (t taken) nack(ctx context.Context) error { return t.Nack(ctx) }

// settle settles deliveries on the broker.
func (p *puller) settle(batch []taken, how func(taken, context.Context) error) {
	p.settling(batch)
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, t := range batch {
		all.Go(func() {
			defer observe.LogPanic(p.of.service.log)
			if err := how(t, ctx); err != nil {
				p.of.service.log.Warn("settling failed, the message will come again", zap.Inline(p.tenantQueue), zap.String("id", t.ID), zap.Error(err))
			}
		})
	}
	all.Wait()
}
