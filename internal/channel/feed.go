package channel

import (
	"context"
	"slices"
	"sync"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/kv"
	"plinth/internal/loop"
)

const (
	checkEvery  = 2 * time.Second        // whether a feed has all that Redis has, and lost no witness
	checkAgain  = 250 * time.Millisecond // before what a check found is believed: it may be on its way
	followMax   = 200 * time.Millisecond // before a feed looks again for a connection that listens
	lingerFor   = 10 * time.Second       // for who comes back after the last stream of a tenant has ended
	recentMost  = 1024                   // messages that a feed keeps
	recentBytes = 4 << 20
)

// feed is what a process hears of the channels of a tenant. It keeps the most recent messages, once for all streams, which have a
// place in them each. A stream that was slower than they pass reads the history.
type feed struct {
	service *Service
	tenant  string
	channel string // of pub/sub

	mu       sync.Mutex
	live     bool // Redis delivers
	epoch    uint32
	start    int64      // recent has all messages that were published after start,
	head     int64      // and until head
	tag      uint32     // of the message at head
	recent   []*Message // by place
	bytes    int
	names    map[string]map[*reader]bool
	patterns map[Pattern]map[*reader]bool
	readers  map[*reader]bool
	emptied  time.Time // when the last reader left
	others   int64     // streams of other processes
	heard    time.Time // when the last message came
}

// join adds a reader to the feed of the tenant of ctx. Errors: ResourceExhausted; Unavailable if the service does not run.
func (s *Service) join(ctx context.Context, r *reader) (*feed, error) {
	tenant := auth.TenantOf(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.feeds[tenant]
	if f == nil {
		f = &feed{
			service: s, tenant: tenant, channel: s.links.pubsubName("{" + tenant + "}"), emptied: time.Now(),
			names: map[string]map[*reader]bool{}, patterns: map[Pattern]map[*reader]bool{}, readers: map[*reader]bool{},
		}
		if !s.start(f.run) {
			return nil, errAway(nil)
		}
		s.feeds[tenant] = f
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if most := s.quotas.streams.Limit(ctx); most > 0 && f.others+int64(len(f.readers)) >= most {
		return nil, s.quotas.streams.Exceeded()
	}
	f.readers[r] = true
	for name := range r.names {
		addTo(f.names, name, r)
	}
	for _, p := range r.patterns {
		addTo(f.patterns, p, r)
	}
	s.metrics.streams.Inc()
	return f, nil
}

func addTo[K comparable](groups map[K]map[*reader]bool, key K, r *reader) {
	if groups[key] == nil {
		groups[key] = map[*reader]bool{}
	}
	groups[key][r] = true
}

func removeFrom[K comparable](groups map[K]map[*reader]bool, key K, r *reader) {
	delete(groups[key], r)
	if len(groups[key]) == 0 {
		delete(groups, key)
	}
}

// leave removes a reader.
func (f *feed) leave(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, r)
	for name := range r.names {
		removeFrom(f.names, name, r)
	}
	for _, p := range r.patterns {
		removeFrom(f.patterns, p, r)
	}
	if len(f.readers) == 0 {
		f.emptied = time.Now()
	}
	f.service.metrics.streams.Dec()
}

// unused removes the feed if nobody has read it for a while.
func (f *feed) unused() bool {
	f.service.mu.Lock()
	defer f.service.mu.Unlock()
	if !f.idle() {
		return false
	}
	delete(f.service.feeds, f.tenant)
	return true
}

// idle reports whether nobody has read the feed for a while.
func (f *feed) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.readers) == 0 && time.Since(f.emptied) >= lingerFor
}

// streams returns how many streams this process has of a tenant.
func (s *Service) streams(tenant string) int {
	s.mu.Lock()
	f := s.feeds[tenant]
	s.mu.Unlock()
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.readers)
}

// run follows what is published until nobody reads it any more.
func (f *feed) run(ctx context.Context) {
	ctx = auth.AsService(ctx, f.tenant)
	backoff := loop.Backoff{Min: reconnectMin, Max: followMax}
	for ctx.Err() == nil && !f.unused() {
		began := time.Now()
		f.follow(ctx)
		f.interrupt()
		if time.Since(began) > reconnectMax {
			backoff.Reset()
		}
		if !loop.Sleep(ctx, backoff.Next()) {
			break
		}
	}
	f.interrupt()
}

// follow follows what one session delivers, until that ends or nobody reads it.
func (f *feed) follow(ctx context.Context) {
	link, err := f.service.links.of(ctx, f.tenant)
	if err != nil {
		return
	}
	s, err := link.await(ctx, reconnectMax)
	if err != nil {
		f.service.links.reload(ctx)
		return
	}
	if err := s.listen(ctx, f.channel, f.published); err != nil {
		return
	}
	defer s.leave(ctx, f.channel)
	for first := true; ; first = false {
		asked := time.Now()
		state, err := f.service.state(ctx, s)
		if err != nil && (first || errs.Is(err, errs.FailedPrecondition)) {
			return
		}
		if err == nil {
			f.found(ctx, s, state, asked, first)
		}
		select {
		case <-s.ended:
			return
		case <-ctx.Done():
			return
		case <-time.After(checkEvery):
		}
		if f.idle() {
			return
		}
		link.used.Store(time.Now().UnixNano())
	}
}

// found compares the feed with what Redis has. At first the feed begins there; later, what it has not is given time to arrive.
func (f *feed) found(ctx context.Context, s *session, st state, asked time.Time, first bool) {
	if !first && f.lacks(st) {
		select {
		case <-time.After(checkAgain):
		case <-s.ended:
			return
		case <-ctx.Done():
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.others = st.streams - int64(len(f.readers))
	if f.epoch == st.epoch && f.head < st.at || f.epoch != st.epoch && asked.After(f.heard) {
		f.reset(st.epoch, st.at)
		f.tag = st.tag
	}
	if !f.live {
		f.live = true
		f.wakeAll()
	}
}

func (f *feed) lacks(st state) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch != st.epoch || f.head < st.at
}

// interrupt tells the streams that nothing is delivered.
func (f *feed) interrupt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live {
		f.live = false
		f.wakeAll()
	}
}

func (f *feed) wakeAll() {
	for r := range f.readers {
		loop.Signal(r.wake)
	}
}

// reset drops what is kept: what was published until start has to be read from the history. Who had all until now begins there.
func (f *feed) reset(epoch uint32, start int64) {
	for r := range f.readers {
		if r.idle {
			r.idle, r.pos = false, f.head
			loop.Signal(r.wake)
		}
	}
	clear(f.recent)
	f.epoch, f.start, f.head, f.recent, f.bytes = epoch, start, start, f.recent[:0], 0
}

// published adds what was published. If it does not follow on what is kept, something is missing.
func (f *feed) published(payload string) {
	m, err := parsePublished(payload)
	if err != nil {
		f.service.log.Warn("what Redis delivers to a channel is not of this service")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.ID.epoch == f.epoch && m.ID.at <= f.head {
		return // A check was faster.
	}
	if m.ID.epoch != f.epoch || m.before != f.head {
		f.reset(m.ID.epoch, m.before)
	}
	f.heard = time.Now()
	f.recent, f.head, f.tag, f.bytes = append(f.recent, m), m.ID.at, m.ID.tag, f.bytes+m.size
	for len(f.recent) > recentMost || f.bytes > recentBytes && len(f.recent) > 1 {
		f.start, f.bytes = f.recent[0].ID.at, f.bytes-f.recent[0].size
		f.recent[0] = nil
		f.recent = f.recent[1:]
	}
	f.wake(f.names[m.Channel.name], m)
	for p, readers := range f.patterns {
		if p.matches(m.Channel.name) {
			f.wake(readers, m)
		}
	}
}

// wake has readers read a message. Those that had all before it have it to read from there on.
func (f *feed) wake(readers map[*reader]bool, m *Message) {
	for r := range readers {
		if r.idle {
			r.idle, r.pos = false, m.before
		}
		loop.Signal(r.wake)
	}
}

// next returns the messages for a reader that are kept, up to a number. It reports false for ok if the reader has to read the history,
// or wait, because Redis does not deliver.
func (f *feed) next(r *reader, most int) (messages []*Message, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.live {
		return nil, false
	}
	if r.idle {
		return nil, true
	}
	if !f.has(r) {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(f.recent, r.pos+1, func(m *Message, at int64) int { return int(min(max(m.ID.at-at, -1), 1)) })
	messages = r.batch[:0]
	for ; i < len(f.recent) && len(messages) < most; i++ {
		r.pos = f.recent[i].ID.at
		if r.wants(f.recent[i].Channel.name) {
			messages = append(messages, f.recent[i])
		}
	}
	if i == len(f.recent) && len(messages) == 0 {
		r.idle = true
	}
	return messages, true
}

// has reports whether all messages are kept that a reader has not read.
func (f *feed) has(r *reader) bool {
	return r.epoch == f.epoch && r.pos >= f.start && r.pos <= f.head && r.starts == nil
}

// covers is has, for who does not hold the lock.
func (f *feed) covers(r *reader) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.has(r)
}

// isLive reports whether Redis delivers.
func (f *feed) isLive() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.live
}

// now returns the place of the last message.
func (f *feed) now() ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return ID{f.head, f.epoch, f.tag}
}

// state is what Redis knows of the channels of a tenant.
type state struct {
	epoch   uint32
	at      int64 // the place of the last message
	began   int64 // the place at which the epoch began
	streams int64 // of all processes
	tag     uint32
}

func (s state) place() ID { return ID{s.at, s.epoch, s.tag} }

// keys are the keys of the tenant of ctx that every script has.
func keys(ctx context.Context, more ...string) []string {
	tenant := auth.TenantOf(ctx)
	return append([]string{kv.Key(tenant, "channel-head"), kv.Key(tenant, "channel-times"), kv.Key(tenant, "channel-counts")}, more...)
}

func historyKey(ctx context.Context, name string) string {
	return kv.Key(auth.TenantOf(ctx), "channel", name)
}
