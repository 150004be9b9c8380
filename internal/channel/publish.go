package channel

import (
	"context"
	"strconv"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// Publish sends a message to those who listen to a channel now, and adds it to the history. Errors: InvalidArgument;
// ResourceExhausted if the tenant has as many channels as it may; Unavailable if Redis is away: then the message may have been sent.
func (s *Service) Publish(ctx context.Context, p Publication) (ID, error) {
	if err := s.check(p); err != nil {
		return ID{}, err
	}
	var id ID
	err := s.do(ctx, func(c *session) error {
		name := p.Channel.name
		reply, err := s.run(ctx, c, s.scripts.publish, false, keys(ctx, historyKey(ctx, name)),
			s.limits.HistorySize, s.limits.HistoryTTL.Microseconds(), s.limits.HistoryBytes, s.quotas.channels.Limit(ctx),
			s.links.pubsubName("{"+auth.TenantOf(ctx)+"}"), name, p.encode(), hashOf(name))
		switch {
		case err != nil:
			return err
		case reply[0] == int64(2):
			return s.quotas.channels.Exceeded()
		case len(reply) != 4:
			return errForeign
		}
		m := Message{Channel: p.Channel}
		m.place(uint32(number(reply[1])), number(reply[2]), number(reply[3]), 0)
		id = m.ID
		return nil
	})
	if err == nil {
		s.metrics.published.Inc()
	}
	return id, err
}

func (s *Service) check(p Publication) error {
	if size := int64(len(p.Payload)); size > s.limits.MaxPayloadSize {
		return errs.New(errs.InvalidArgument, "payload: it has %d bytes; at most %d are allowed", size, s.limits.MaxPayloadSize)
	}
	size := 0
	for key, value := range p.Attributes {
		size += len(key) + len(value)
	}
	if size > MaxAttributes {
		return errs.New(errs.InvalidArgument, "attributes: they have %d bytes, keys included; at most %d are allowed", size, MaxAttributes)
	}
	return nil
}

// number reads a number of a reply, which is 0 if it is none.
func number(part any) int64 {
	switch part := part.(type) {
	case int64:
		return part
	case string:
		n, _ := strconv.ParseInt(part, 10, 64)
		return n
	}
	return 0
}

// afterLimit bounds how long PublishTx tries after the commit.
const afterLimit = 5 * time.Second

// PublishTx publishes a message once tx is committed, and never if it is not. It does not wait: if the process ends right after the
// commit, or Redis is away, the message is lost. Errors: InvalidArgument.
func (s *Service) PublishTx(ctx context.Context, tx *pg.Tx, p Publication) error {
	if err := s.check(p); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	tx.AfterCommit(func() {
		s.start(func(context.Context) {
			ctx, cancel := context.WithTimeout(ctx, afterLimit)
			defer cancel()
			_, _ = s.Publish(ctx, p) // At most once.
		})
	})
	return nil
}

// Info is what is known of a channel.
type Info struct {
	Name    Name
	LastID  ID  // of its last message of a day; if there is none, a place behind all messages
	History int // messages
	Used    bool
}

// GetChannel describes a channel, also one that nobody ever published to. Errors: Unavailable.
func (s *Service) GetChannel(ctx context.Context, name Name) (Info, error) {
	var info Info
	err := s.do(ctx, func(c *session) error {
		st, lists, err := s.list(ctx, c, []string{name.name}, func(string) int64 { return maxPlace - 2 })
		if err != nil {
			return err
		}
		l := lists[0]
		info = Info{Name: name, LastID: st.place(), History: l.length}
		if l.last > st.began {
			info.LastID, info.Used = ID{l.last, st.epoch, l.tag}, true
		}
		return nil
	})
	return info, err
}
