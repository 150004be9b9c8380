package channel

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

// catchUp sends what the histories have after the place of the stream, and gaps for what they have not.
func (s *stream) catchUp(ctx context.Context) error {
	select {
	case s.service.reads <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.service.metrics.reads.Inc()
	p, err := s.plan(ctx)
	<-s.service.reads
	if err != nil {
		return err
	}
	for i, gap := range p.gaps {
		id := ID{at: p.from, epoch: p.epoch}
		if i == len(p.gaps)-1 && len(p.entries) == 0 {
			id = ID{at: p.until, epoch: p.epoch}
		}
		s.service.metrics.gaps.WithLabelValues(string(gap.Reason)).Inc()
		if err := s.send(Event{ID: id, Gap: gap, More: i < len(p.gaps)-1 || len(p.entries) > 0}); err != nil {
			return err
		}
	}
	s.move(p.from, p.epoch)
	for entries := p.entries; len(entries) > 0; {
		n := 1
		for size := entries[0].size; n < len(entries) && n < readAtOnce && size+entries[n].size <= readBytes; n++ {
			size += entries[n].size
		}
		if err := s.readSome(ctx, p, entries[:n], n < len(entries)); err != nil {
			return err
		}
		entries = entries[n:]
	}
	s.starts = nil
	s.move(p.until, p.epoch)
	return nil
}

// move sets the place of the stream.
func (s *stream) move(at int64, epoch uint32) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.idle, s.pos, s.epoch = false, max(at, 0), epoch
}

// readSome reads a part of the planned messages and sends it. What went out of the history meanwhile is a gap.
func (s *stream) readSome(ctx context.Context, p *plan, entries []entry, more bool) error {
	select {
	case s.service.reads <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	messages, err := s.service.read(ctx, p.session, entries)
	<-s.service.reads
	if err != nil {
		return err
	}
	for i, m := range messages {
		last := more || i < len(messages)-1
		at := ID{at: entries[i].at, epoch: p.epoch}
		if m == nil {
			gap := &Gap{Channel: Name{entries[i].name}, After: ID{at: at.at - 1, epoch: p.epoch}, Before: ID{at: at.at + 1, epoch: p.epoch}, Missed: 1, Reason: History}
			s.service.metrics.gaps.WithLabelValues(string(gap.Reason)).Inc()
			if err := s.send(Event{ID: at, Gap: gap, More: last}); err != nil {
				return err
			}
		} else if err := s.deliver(p.epoch, []*Message{m}, last); err != nil {
			return err
		}
		s.move(at.at, p.epoch)
	}
	return nil
}

// plan is what a stream has to send of histories.
type plan struct {
	session     *session
	epoch       uint32
	from, until int64
	gaps        []*Gap
	entries     []entry // by place
}

// plan finds out what the histories have after the place of the stream, and what they have not.
func (s *stream) plan(ctx context.Context) (*plan, error) {
	ctx = auth.AsService(ctx, s.feed.tenant)
	link, err := s.service.links.of(ctx, s.feed.tenant)
	if err != nil {
		return nil, err
	}
	session, err := link.await(ctx, s.service.limits.ReplyTimeout)
	if err != nil {
		return nil, err
	}
	at := s.place()
	if s.last.at == at.at && s.last.epoch == at.epoch {
		at = s.last
	}
	var st state
	var names []string
	if len(s.patterns) > 0 {
		st, names, err = s.service.active(ctx, session, at, s.patterns)
	} else {
		st, err = s.service.state(ctx, session)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	p := &plan{session: session, epoch: st.epoch, from: at.at, until: st.at}
	if at.epoch != st.epoch {
		// Nobody knows what was published after the last message that Redis still has. Of a Redis that lost everything, the clock
		// may even be behind.
		p.gaps = append(p.gaps, &Gap{After: at, Before: ID{at: max(st.began, at.at) + 1, epoch: st.epoch}, Reason: RedisLost})
		p.from = min(at.at, st.began)
	} else if time.Since(time.UnixMicro(at.at)) > remembered-time.Hour && at.at < st.at {
		p.gaps = append(p.gaps, &Gap{After: at, Before: ID{at: st.at + 1, epoch: st.epoch}, Reason: History})
	}
	names = slices.DeleteFunc(names, func(name string) bool { return s.names[name] })
	names = slices.AppendSeq(names, maps.Keys(s.names))
	slices.Sort(names)
	after := func(name string) int64 { return max(p.from, s.starts.of(name, st)) }
	listed, listings, err := s.service.list(ctx, session, names, after)
	if err == nil && listed.epoch != st.epoch {
		err = errMoved // What has been lost since is not in the listings, and the plan has no gap for it.
	}
	if err != nil {
		return nil, unavailable(err)
	}
	for _, l := range listings {
		s.add(p, l, ID{at: after(l.name), epoch: at.epoch}, st)
	}
	slices.SortFunc(p.entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	return p, nil
}

// add adds a listing to the plan: its messages until the end of the plan, and a gap if some before them are gone.
func (s *stream) add(p *plan, l listing, start ID, st state) {
	mark := start
	if m, ok := s.marks[l.name]; ok && m.at >= start.at {
		mark = m
	}
	switch {
	case len(l.entries) == 0 && l.last > start.at:
		last := ID{l.last, st.epoch, l.tag}
		missed := mark.numberAfter(last)
		if mark.tag != 0 && mark.tag>>counterBits == last.tag>>counterBits && mark.epoch == last.epoch {
			missed++ // The last one is missing, too.
		}
		p.gaps = append(p.gaps, &Gap{Channel: Name{l.name}, After: mark, Before: ID{at: max(st.at, l.last) + 1, epoch: st.epoch}, Missed: missed, Reason: History})
	case len(l.entries) > 0 && l.before > start.at:
		p.gaps = append(p.gaps, &Gap{Channel: Name{l.name}, After: mark, Before: l.first, Missed: mark.numberAfter(l.first), Reason: History})
	}
	for _, e := range l.entries {
		if e.at <= p.until {
			p.entries = append(p.entries, e)
		}
	}
}

// unavailable makes an error that passes by itself one that a stream waits for.
func unavailable(err error) error {
	if errs.Is(err, errs.FailedPrecondition) {
		return errAway(err)
	}
	return err
}
