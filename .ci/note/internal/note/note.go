package note

import (
	"context"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

// The event that tells of a new note.
const (
	topic   = "notes"
	created = "created"
)

// Note is a text that somebody keeps.
type Note struct {
	ID        string // UUIDv7
	Text      string
	CreatedAt time.Time
	ExpiresAt time.Time // zero is never
}

// CreateNote creates a note with the text and the expiry of n. Errors: ResourceExhausted.
func (s *Service) CreateNote(ctx context.Context, n Note) (Note, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Note{}, err
	}
	n.ID = id.String()
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		if err := s.quota.Take(ctx, tx, 1); err != nil {
			return err
		}
		if n, err = insertNote(ctx, tx, n); err != nil {
			return err
		}
		if err := s.publish(ctx, tx, topic, created, []byte(n.ID)); !errs.Is(err, errs.NotFound) {
			return err
		}
		return nil
	})
	if err != nil {
		return Note{}, err
	}
	return n, nil
}

// GetNote returns a note. Errors: NotFound.
func (s *Service) GetNote(ctx context.Context, id string) (Note, error) {
	return selectNote(ctx, s.db, id)
}

// ListNotes lists the notes, the latest first, in pages as resource.List has them. Errors: InvalidArgument for a token that is not
// of this list.
func (s *Service) ListNotes(ctx context.Context, size int, token string) (notes []Note, next string, err error) {
	list := resource.List[Note, uuid.UUID]{
		Of:       []any{"notes", auth.TenantOf(ctx)},
		Start:    uuid.Max,
		Position: func(n Note) string { return n.ID },
		Parse:    uuid.Parse,
		Select: resource.OneMore(func(before uuid.UUID, limit int) ([]Note, error) {
			return selectNotes(ctx, s.db, before.String(), limit)
		}),
	}
	return list.Page(size, token)
}

// UpdateNote changes a note; change gets it as it is. Errors: NotFound; InvalidArgument for an empty text.
func (s *Service) UpdateNote(ctx context.Context, id string, change func(*Note)) (n Note, err error) {
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		if n, err = lockNote(ctx, tx, id); err != nil {
			return err
		}
		change(&n)
		if n.Text == "" {
			return errs.New(errs.InvalidArgument, "text: a note says something")
		}
		return updateNote(ctx, tx, n)
	})
	if err != nil {
		return Note{}, err
	}
	return n, nil
}

// DeleteNote deletes a note. Errors: NotFound.
func (s *Service) DeleteNote(ctx context.Context, id string) error {
	deleted, err := deleteNote(ctx, s.db, id)
	if err == nil && !deleted {
		return errNoNote(id)
	}
	return err
}

func errNoNote(id string) error { return errs.New(errs.NotFound, "id: there is no note %.64q", id) }
