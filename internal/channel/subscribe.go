package channel

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"plinth/internal/errs"
)

const (
	// MaxNames is the most channels of a stream.
	MaxNames = 100
	// MaxPatterns is the most patterns of a stream.
	MaxPatterns = 20

	heartbeatEvery = 15 * time.Second
	sentAtOnce     = 64                     // messages that a stream takes at a time of what is kept
	patience       = time.Second            // before a new stream is told that Redis is away
	historyRetry   = 100 * time.Millisecond // after a history could not be read
	returnWithin   = 4 * time.Second        // streams that end because the server stops come back within this, not all at once
)

// Subscription is what a stream is of.
type Subscription struct {
	Channels []Name
	Patterns []Pattern
	After    ID            // where all channels are resumed; zero is new messages only
	AfterOf  map[string]ID // where single ones of Channels are resumed
	Quiet    bool          // without heartbeats that only show that the stream is open
}

// Event is one that a stream sends. One of Subscribed, Message and Gap is set; otherwise it is a heartbeat.
type Event struct {
	ID          ID // the place of the stream after the event
	Subscribed  ID // where the channels are
	Message     *Message
	Gap         *Gap
	Interrupted bool // Redis is away
	More        bool // another event follows at once
}

// Reason is why messages are missing.
type Reason string

// The reasons.
const (
	History   Reason = "history"    // They are older than the history.
	RedisLost Reason = "redis_lost" // It is not known what Redis lost.
)

// Gap says that messages are missing, or may be. Those that still exist follow it.
type Gap struct {
	Channel       Name // zero is all of the stream
	After, Before ID
	Missed        int64 // 0 where that is not known
	Reason        Reason
}

// reader is the state of a stream.
type reader struct {
	names    map[string]bool
	patterns []Pattern
	wake     chan struct{}
	batch    []*Message

	// Guarded by the feed's lock:
	idle bool  // it has all that the feed has, wherever that is
	pos  int64 // its place; all before it was sent
	// Its own:
	epoch  uint32        // of pos
	starts starts        // nil once the history was read
	marks  map[string]ID // of its named channels: the last message that it has
	last   ID            // the id that the client has of its place
	told   bool          // that Redis is away
}

// wants reports whether a message of a channel is for the stream.
func (r *reader) wants(name string) bool {
	return r.names[name] || slices.ContainsFunc(r.patterns, func(p Pattern) bool { return p.matches(name) })
}

// stream sends the events of a reader.
type stream struct {
	*reader
	service *Service
	feed    *feed
	send    func(Event) error
}

// Subscribe sends the events of a stream until ctx ends, send fails, or finishing is closed. Errors: those of send; InvalidArgument; ResourceExhausted; Unavailable with when to come back.
func (s *Service) Subscribe(ctx context.Context, sub Subscription, finishing <-chan struct{}, send func(Event) error) error {
	if err := checkSubscription(sub); err != nil {
		return err
	}
	r := &reader{names: map[string]bool{}, patterns: sub.Patterns, wake: make(chan struct{}, 1), marks: map[string]ID{}}
	for _, name := range sub.Channels {
		r.names[name.name] = true
	}
	f, err := s.join(ctx, r)
	if err != nil {
		return err
	}
	defer f.leave(r)
	st := &stream{reader: r, service: s, feed: f, send: send}
	if err := st.open(ctx, sub, finishing); err != nil {
		return err
	}
	var silent <-chan time.Time
	var timer *time.Timer
	if !sub.Quiet {
		timer = time.NewTimer(heartbeatEvery)
		defer timer.Stop()
		silent = timer.C
	}
	for {
		sent, wait, err := st.advance(ctx)
		if err != nil {
			return err
		}
		if sent && timer != nil {
			timer.Reset(heartbeatEvery)
		}
		if sent && wait == 0 {
			select { // A stream that always has something to send ends, too.
			case <-finishing:
				return errFinishing()
			default:
			}
			continue
		}
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-r.wake:
		case <-again:
		case <-silent:
			if err := send(Event{ID: st.place(), Interrupted: r.told}); err != nil {
				return err
			}
			timer.Reset(heartbeatEvery)
		case <-finishing:
			return errFinishing()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func checkSubscription(sub Subscription) error {
	switch {
	case len(sub.Channels)+len(sub.Patterns) == 0:
		return errs.New(errs.InvalidArgument, "channels: at least one channel or pattern is needed")
	case len(sub.Channels) > MaxNames:
		return errs.New(errs.InvalidArgument, "channels: at most %d are allowed", MaxNames)
	case len(sub.Patterns) > MaxPatterns:
		return errs.New(errs.InvalidArgument, "patterns: at most %d are allowed", MaxPatterns)
	}
	for name := range sub.AfterOf {
		if !slices.Contains(sub.Channels, Name{name}) {
			return errs.New(errs.InvalidArgument, "after: %.64q is none of channels", name)
		}
	}
	return nil
}

func errFinishing() error {
	return errs.New(errs.Unavailable, "the stream is too old, or this server stops; subscribe again, after the last id").
		After(time.Second + rand.N(returnWithin))
}

// open waits until Redis delivers, and sends the first event. If Redis is away, it says so meanwhile.
func (s *stream) open(ctx context.Context, sub Subscription, finishing <-chan struct{}) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for !s.feed.isLive() {
		select {
		case <-s.wake:
		case <-late.C:
			s.told = true
			if err := s.send(Event{ID: sub.After, Interrupted: true}); err != nil {
				return err
			}
		case <-finishing:
			return errFinishing()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	now := s.feed.now()
	place, starts := sub.begin(now)
	s.starts = starts
	for name, after := range sub.AfterOf {
		s.marks[name] = after
	}
	for name := range s.names { // Its tag shows of which channel it is.
		if sub.After.tag != 0 && sub.After.tag>>counterBits == hashOf(name) && sub.AfterOf[name].IsZero() {
			s.marks[name] = sub.After
		}
	}
	s.feed.mu.Lock()
	s.pos, s.epoch = place.at, place.epoch
	s.feed.mu.Unlock()
	s.told, s.last = false, place
	return s.send(Event{ID: place, Subscribed: now})
}

// starts are where the channels of a stream begin that do not all begin at one place. "" is that of those that are not named.
type starts map[string]ID

// begin returns the place at which a stream begins: that of the first of its channels, in an epoch of the past if one of them has such
// a place, so that it is told what was lost.
func (sub Subscription) begin(now ID) (place ID, all starts) {
	place = now
	if !sub.After.IsZero() {
		place = sub.After
	}
	if len(sub.AfterOf) == 0 {
		return place, nil
	}
	all = starts{"": place}
	for _, name := range sub.Channels {
		all[name.name] = place
	}
	for name, after := range sub.AfterOf {
		all[name] = after
		place = ID{at: min(after.at, place.at), epoch: place.epoch}
		if after.epoch != now.epoch {
			place.epoch = after.epoch
		}
	}
	return place, all
}

// of returns the place after which a channel has messages for the stream, 0 where all begin at one. Those of an epoch are all after a
// place of another one.
func (s starts) of(name string, st state) int64 {
	start, named := s[name]
	if !named {
		start = s[""]
	}
	if start.epoch != st.epoch {
		return min(start.at, st.began)
	}
	return start.at
}

// place returns where the stream is.
func (s *stream) place() ID {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	if s.idle {
		return ID{s.feed.head, s.feed.epoch, s.feed.tag}
	}
	return ID{at: s.pos, epoch: s.epoch}
}

// advance sends what there is. If there was nothing, or nothing can be read now, the stream waits; after wait, unless that is 0, it
// tries again.
func (s *stream) advance(ctx context.Context) (sent bool, wait time.Duration, err error) {
	before := s.place()
	messages, ok := s.feed.next(s.reader, sentAtOnce)
	switch {
	case ok:
		if s.told {
			s.told = false
			if err := s.send(Event{ID: before}); err != nil {
				return false, 0, err
			}
		}
		err = s.deliver(s.epoch, messages, false)
		clear(messages)
		s.batch = messages[:0]
		return len(messages) > 0, 0, err
	case !s.feed.isLive():
		if s.told {
			return false, 0, nil
		}
		s.told = true
		return true, historyRetry, s.send(Event{ID: s.place(), Interrupted: true})
	}
	err = s.catchUp(ctx)
	if err != nil && errs.Is(err, errs.Unavailable) {
		return false, historyRetry, nil // The feed finds out why.
	}
	if !s.feed.covers(s.reader) { // The feed has yet to find out what the stream found.
		wait = historyRetry
	}
	return true, wait, err
}

// deliver sends messages.
func (s *stream) deliver(epoch uint32, messages []*Message, more bool) error {
	for i, m := range messages {
		id := m.ID
		if id.epoch != epoch {
			id = ID{at: id.at, epoch: epoch}
		}
		if err := s.send(Event{ID: id, Message: m, More: more || i < len(messages)-1}); err != nil {
			return err
		}
		s.last = id
		if s.names[m.Channel.name] {
			s.marks[m.Channel.name] = m.ID
		}
	}
	s.service.metrics.delivered.Add(float64(len(messages)))
	return nil
}
