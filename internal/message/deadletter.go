package message

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/resource"
)

// DeadLetter is a message that is tried no more and kept for people.
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

// PublishedAt is when the message was published.
func (d DeadLetter) PublishedAt() time.Time { return Message{ID: d.MessageID}.PublishedAt() }

// Filter chooses dead letters: those that match all that is set.
type Filter struct {
	Reason       string    // is part of the letter's reason, whatever the case of its letters
	FailedAfter  time.Time // the last failure was then or later
	FailedBefore time.Time // the last failure was earlier
}

func (f Filter) list(ctx context.Context, queue QueueName) resource.List {
	return resource.ListOf("dead letters", auth.TenantOf(ctx), queue.name, f.Reason, f.FailedAfter.UnixMicro(), f.FailedBefore.UnixMicro())
}

// ListDeadLetters lists the dead letters of a queue, the latest failure first, in pages of size at most (0 is 100, more than
// 1,000 are 1,000) and of about 2 MiB. next is empty on the last page. Errors: NotFound for an unknown queue;
// InvalidArgument for a token that is not of this list, such as one for another filter.
func (s *Service) ListDeadLetters(ctx context.Context, queue QueueName, filter Filter, size int, token string) (
	letters []DeadLetter, next string, err error,
) {
	list := filter.list(ctx, queue)
	after, err := resource.Position(list, token, parsePosition)
	if err != nil {
		return nil, "", err
	}
	if _, err := selectQueue(ctx, s.db, queue); err != nil {
		return nil, "", err
	}
	letters, more, err := selectDeadLetters(ctx, s.db, queue, filter, after, resource.PageSize(size))
	if err == nil && more {
		last := letters[len(letters)-1]
		next = list.Token(position{last.LastFailedAt, uuid.MustParse(last.ID)}.String())
	}
	return letters, next, err
}

// GetDeadLetter returns a dead letter. Errors: InvalidArgument for an id that is no UUID; NotFound.
func (s *Service) GetDeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	id, err := parseID(id)
	if err != nil {
		return DeadLetter{}, err
	}
	return selectDeadLetter(ctx, s.db, id)
}

// position is a place among the dead letters of a queue. The zero one is their beginning, the latest failure.
type position struct {
	lastFailedAt time.Time
	id           uuid.UUID
}

// String is the time in microseconds, and the id.
func (p position) String() string {
	return string(append(binary.BigEndian.AppendUint64(nil, uint64(p.lastFailedAt.UnixMicro())), p.id[:]...))
}

func parsePosition(text string) (p position, err error) {
	if len(text) != 8+len(p.id) {
		return p, errors.New("a position has another length")
	}
	p.lastFailedAt = time.UnixMicro(int64(binary.BigEndian.Uint64([]byte(text[:8]))))
	return p, p.id.UnmarshalBinary([]byte(text[8:]))
}
