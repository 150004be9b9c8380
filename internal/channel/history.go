package channel

import (
	"context"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"plinth/internal/errs"
)

const (
	listedAtOnce = 16      // channels whose histories one script lists
	readAtOnce   = 64      // messages that are read at a time
	readBytes    = 1 << 20 // and their bytes, but for a single message
)

// listing is what the history of a channel has after a place.
type listing struct {
	name    string
	last    int64  // the place of the last message of the channel; 0 where that is not known
	tag     uint32 // of that message
	length  int    // messages in the history
	before  int64  // the place of the message before the first of entries
	first   ID     // of the first of entries
	entries []entry
}

// entry is a message of a history.
type entry struct {
	name string
	at   int64
	size int
}

// state asks how far the channels of the tenant of ctx are.
func (s *Service) state(ctx context.Context, c *session) (state, error) {
	reply, err := s.run(ctx, c, s.scripts.list, true, keys(ctx))
	if err != nil {
		return state{}, err
	}
	return parseState(reply)
}

// stateFields is how many fields of a reply are the state.
const stateFields = 6

func parseState(reply []any) (state, error) {
	if len(reply) < stateFields {
		return state{}, errForeign
	}
	return state{uint32(number(reply[1])), number(reply[2]), number(reply[3]), number(reply[4]), uint32(number(reply[5]))}, nil
}

// list lists the histories of channels after places, all of one epoch. The state is that of before all of them.
func (s *Service) list(ctx context.Context, c *session, names []string, after func(name string) int64) (st state, all []listing, err error) {
	if len(names) == 0 {
		st, err = s.state(ctx, c)
		return st, nil, err
	}
	for some := range slices.Chunk(names, listedAtOnce) {
		histories, args := make([]string, 0, len(some)), make([]any, 0, 2*len(some))
		for _, name := range some {
			histories = append(histories, historyKey(ctx, name))
			args = append(args, name, strconv.FormatInt(after(name), 10))
		}
		reply, err := s.run(ctx, c, s.scripts.list, false, keys(ctx, histories...), args...)
		if err != nil {
			return state{}, nil, err
		}
		now, err := parseState(reply)
		if err != nil || len(reply) != stateFields+len(some) {
			return state{}, nil, errForeign
		}
		if len(all) == 0 {
			st = now
		}
		if now.epoch != st.epoch {
			return state{}, nil, errMoved
		}
		for i, name := range some {
			l, err := parseListing(name, reply[stateFields+i])
			if err != nil {
				return state{}, nil, err
			}
			all = append(all, l)
		}
	}
	return st, all, nil
}

func parseListing(name string, part any) (listing, error) {
	fields, _ := part.([]any)
	if len(fields) < listingHead || len(fields)%2 != 0 {
		return listing{}, errForeign
	}
	l := listing{
		name: name, last: number(fields[0]), tag: tagOf(name, number(fields[1])), length: int(number(fields[2])),
		before: number(fields[3]),
	}
	for i := listingHead; i < len(fields); i += 2 {
		l.entries = append(l.entries, entry{name, number(fields[i]), int(number(fields[i+1]))})
	}
	if len(l.entries) > 0 {
		l.first = ID{l.entries[0].at, uint32(number(fields[5])), tagOf(name, number(fields[4]))}
	}
	return l, nil
}

// listingHead is how many fields a listing has before the entries.
const listingHead = 6

// active is state, and returns the channels that had messages after a place, and whose name matches a pattern, as of the same moment.
func (s *Service) active(ctx context.Context, c *session, after ID, patterns []Pattern) (st state, names []string, err error) {
	reply, err := s.run(ctx, c, s.scripts.active, true, keys(ctx), strconv.FormatInt(after.at, 10), strconv.FormatUint(uint64(after.epoch), 10))
	if err != nil {
		return state{}, nil, err
	}
	if st, err = parseState(reply); err != nil {
		return state{}, nil, err
	}
	for _, found := range reply[stateFields:] {
		name, _ := found.(string)
		if slices.ContainsFunc(patterns, func(p Pattern) bool { return p.matches(name) }) {
			names = append(names, name)
		}
	}
	return st, names, nil
}

// read reads messages of histories. One that is gone meanwhile is nil.
func (s *Service) read(ctx context.Context, c *session, entries []entry) ([]*Message, error) {
	asking, cancel := context.WithTimeout(ctx, s.limits.ReplyTimeout)
	defer cancel()
	pipe := c.client.Pipeline()
	found := make([]*redis.XMessageSliceCmd, len(entries))
	for i, e := range entries {
		at := strconv.FormatInt(e.at, 10)
		found[i] = pipe.XRange(asking, historyKey(ctx, e.name), at+"-0", at+"-0")
	}
	if _, err := pipe.Exec(asking); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, errAway(err)
	}
	messages := make([]*Message, len(entries))
	for i, e := range entries {
		values := found[i].Val()
		if len(values) != 1 {
			continue
		}
		m := &Message{Channel: Name{e.name}}
		fields := values[0].Values
		m.place(uint32(number(fields["e"])), e.at, number(fields["n"]), number(fields["v"]))
		data, _ := fields["d"].(string)
		if err := m.decode(data); err != nil {
			return nil, errs.Wrap(err, errs.Unavailable, "the history of a channel has another form")
		}
		messages[i] = m
	}
	return messages, nil
}
