package message

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/resource"
)

// DeadLetter is a message that is not tried again and is kept for people to look at.
type DeadLetter struct {
	ID            string // UUID, of the dead letter
	Queue         QueueName
	MessageID     string
	Reason        string
	Attempts      int
	FirstFailedAt time.Time
	LastFailedAt  time.Time
	Attributes    map[string]string
	Body          []byte

	headers map[string]string
}

// PublishedAt returns when the message was published.
func (d DeadLetter) PublishedAt() time.Time { return Message{ID: d.MessageID}.PublishedAt() }

// Filter selects the dead letters that match all fields that are set.
type Filter struct {
	Reason       string    // a part of the dead letter's reason; case is ignored
	FailedAfter  time.Time // the last failure was at this time or later
	FailedBefore time.Time // the last failure was before this time
}

// reasonTries is how many statements look for the first dead letter of a page that has a reason.
const reasonTries = 3

// ListDeadLetters lists the dead letters of a queue, the latest failure first, in pages as resource.List describes them,
// of about 2 MiB. With a reason that few dead letters match, a page may have fewer or none although the list goes on. Errors: NotFound for an unknown queue; InvalidArgument for a token that is not of this list, such as
// one for another filter.
func (s *Service) ListDeadLetters(ctx context.Context, queue QueueName, filter Filter, size int, token string) (
	letters []DeadLetter, next string, err error,
) {
	var seen position
	list := resource.List[DeadLetter, position]{
		Of: []any{
			"dead letters", auth.TenantOf(ctx), queue.name, filter.Reason, filter.FailedAfter.UnixMicro(), filter.FailedBefore.UnixMicro(),
		},
		Position: func(d DeadLetter) string { return position{d.LastFailedAt, uuid.MustParse(d.ID)}.String() },
		Parse:    parsePosition,
		Select: func(after position, size int) ([]DeadLetter, bool, error) {
			if _, err := selectQueue(ctx, s.db, queue); err != nil {
				return nil, false, err
			}
			var found []DeadLetter
			more := true
			for try := 0; more && len(found) == 0 && try < reasonTries; try++ {
				var err error
				if found, seen, more, err = selectDeadLetters(ctx, s.db, queue, filter, after, size); err != nil {
					return nil, false, err
				}
				after = seen
			}
			return found, more, nil
		},
		Next: func() string {
			if seen == (position{}) {
				return ""
			}
			return seen.String()
		},
	}
	return list.Page(size, token)
}

// GetDeadLetter returns a dead letter. Errors: InvalidArgument for an id that is not a UUID; NotFound.
func (s *Service) GetDeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	id, err := parseID(id)
	if err != nil {
		return DeadLetter{}, err
	}
	return selectDeadLetter(ctx, s.db, id)
}

// folded returns text with the case of its letters folded, the same whatever the collation of the database: each is the
// lower case of the least of those that Unicode regards as one letter.
func folded(text string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return unicode.ToLower(least)
	}, text)
}

// position is a place in the list of dead letters of a queue. The zero position is the beginning of the list, the latest
// failure.
type position struct {
	lastFailedAt time.Time
	id           uuid.UUID
}

// String returns the time in microseconds followed by the id.
func (p position) String() string {
	return string(append(binary.BigEndian.AppendUint64(nil, uint64(p.lastFailedAt.UnixMicro())), p.id[:]...))
}

func parsePosition(text string) (p position, err error) {
	if len(text) != 8+len(p.id) {
		return p, errors.New("a position has another length")
	}
	p.lastFailedAt = time.UnixMicro(int64(binary.BigEndian.Uint64([]byte(text[:8]))))
	if year := p.lastFailedAt.Year(); year < 1970 || year > 9999 { // Postgres does not take every time.
		return p, errors.New("a position has no such time")
	}
	return p, p.id.UnmarshalBinary([]byte(text[8:]))
}
