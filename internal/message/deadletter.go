package message

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
)

// maxPageBytes ends a page of dead letters early, so that a reply stays within what clients take.
const maxPageBytes = 2 << 20

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

// list names what is listed.
func (f Filter) list(ctx context.Context, queue QueueName) []any {
	return []any{"dead letters", auth.TenantOf(ctx), queue.name, f.Reason, f.FailedAfter.UnixMicro(), f.FailedBefore.UnixMicro()}
}

// DeadLetters lists the dead letters of a queue, the latest failure first, in pages of size at most (0 is 100, more than
// 1,000 are 1,000) and of about 2 MiB. next is empty on the last page. Errors: NotFound for an unknown queue;
// InvalidArgument for a token that DeadLetters did not give for this queue and filter.
func (s *Service) DeadLetters(ctx context.Context, queue QueueName, filter Filter, size int, token string) (
	letters []DeadLetter, next string, err error,
) {
	after, err := parsePosition(token, filter.list(ctx, queue)...)
	if err != nil {
		return nil, "", err
	}
	if _, err := selectQueue(ctx, s.db, queue); err != nil {
		return nil, "", err
	}
	letters, more, err := selectDeadLetters(ctx, s.db, queue, filter, after, pageSize(size))
	if err == nil && more {
		last := letters[len(letters)-1]
		next = position{last.LastFailedAt, uuid.MustParse(last.ID)}.token(filter.list(ctx, queue)...)
	}
	return letters, next, err
}

// DeadLetter describes one. Errors: InvalidArgument for an id that is no UUID; NotFound.
func (s *Service) DeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	id, err := parseID(id)
	if err != nil {
		return DeadLetter{}, err
	}
	return selectDeadLetter(ctx, s.db, id)
}

// position is a place in a list, the latest first. The zero one is its beginning.
type position struct {
	lastFailedAt time.Time // zero in lists that are in the order of their ids
	id           uuid.UUID
}

// token names a position in a list: the time in microseconds, the id, and a part of the digest of what is listed.
func (p position) token(list ...any) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.lastFailedAt.UnixMicro()))
	b = append(b, p.id[:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, digest(list)...))
}

func parsePosition(token string, list ...any) (p position, err error) {
	if token == "" {
		return p, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 32 || string(b[24:]) != string(digest(list)) {
		return p, errPageToken
	}
	p.lastFailedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(b)))
	return p, p.id.UnmarshalBinary(b[8:24])
}

// digest tells lists from each other.
func digest(list []any) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", list))
	return sum[:8]
}
