package note_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	notev1 "plinth/api/plinth/note/v1"
	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/note"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// fixture is the service over a database of the test's own.
type fixture struct {
	*note.Service
	events *[]string
	fault  *error // of publishing
}

func newFixture(t *testing.T, limits note.Limits) fixture {
	t.Helper()
	db, err := pg.Open(t.Context(), pg.Config{URL: pgtest.New(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	f := fixture{events: new([]string), fault: new(error)}
	f.Service = note.New(note.Config{
		DB: db, System: db.System(), Limits: limits,
		Publish: func(_ context.Context, _ *pg.Tx, topic, key string, body []byte) error {
			*f.events = append(*f.events, topic+" "+key+" "+string(body))
			return *f.fault
		},
	})
	return f
}

func (f fixture) create(t *testing.T, ctx context.Context, text string, expires time.Time) note.Note {
	t.Helper()
	n, err := f.CreateNote(ctx, note.Note{Text: text, ExpiresAt: expires})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNoteOnTheWire(t *testing.T) {
	t.Parallel()
	f := newFixture(t, note.Limits{})
	ctx, r := auth.AsService(t.Context(), "acme"), note.NewRPC(f.Service)
	made, err := r.CreateNote(ctx, &notev1.CreateNoteRequest{Text: "milk"})
	if err != nil || made.GetText() != "milk" || made.GetExpireTime() != nil || time.Since(made.GetCreateTime().AsTime()) > time.Minute {
		t.Fatalf("%v %v", made, err)
	}
	if want := []string{"notes created " + made.GetId()}; !slices.Equal(*f.events, want) {
		t.Errorf("told of %v, want %v", *f.events, want)
	}
	if _, err := r.UpdateNote(ctx, &notev1.UpdateNoteRequest{Id: made.GetId(), Text: "bread"}); err != nil {
		t.Error(err)
	}
	if _, err := r.UpdateNote(ctx, &notev1.UpdateNoteRequest{Id: made.GetId(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"text"}}}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("an empty text: %v", err)
	}
	if n, err := r.GetNote(ctx, &notev1.GetNoteRequest{Id: made.GetId()}); err != nil || n.GetText() != "bread" {
		t.Errorf("%v %v", n, err)
	}
	if _, err := r.DeleteNote(ctx, &notev1.DeleteNoteRequest{Id: made.GetId()}); err != nil {
		t.Error(err)
	}
	if _, err := r.DeleteNote(ctx, &notev1.DeleteNoteRequest{Id: made.GetId()}); !errs.Is(err, errs.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
}

func TestListNotes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, note.Limits{})
	ctx := auth.AsService(t.Context(), "acme")
	for _, text := range []string{"a", "b", "c"} {
		f.create(t, ctx, text, time.Time{})
	}
	f.create(t, auth.AsService(t.Context(), "other"), "x", time.Time{})
	first, next, err := f.ListNotes(ctx, 2, "")
	if err != nil || len(first) != 2 || first[0].Text != "c" || next == "" {
		t.Fatalf("%v %q %v", first, next, err)
	}
	if last, next, err := f.ListNotes(ctx, 2, next); err != nil || len(last) != 1 || last[0].Text != "a" || next != "" {
		t.Errorf("%v %q %v", last, next, err)
	}
}

// A note that cannot be told of is not there. One that nobody wants to hear of is.
func TestCreateNoteIsToldOf(t *testing.T) {
	t.Parallel()
	f := newFixture(t, note.Limits{})
	ctx := auth.AsService(t.Context(), "acme")
	*f.fault = errs.New(errs.NotFound, "topic: no queue is bound to it")
	f.create(t, ctx, "unheard", time.Time{})
	*f.fault = errors.New("fault")
	if _, err := f.CreateNote(ctx, note.Note{Text: "a"}); !errors.Is(err, *f.fault) {
		t.Errorf("%v", err)
	}
	if notes, _, err := f.ListNotes(ctx, 0, ""); err != nil || len(notes) != 1 {
		t.Errorf("%v %v", notes, err)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	f := newFixture(t, note.Limits{Notes: 2})
	ctx := auth.AsService(t.Context(), "acme")
	f.create(t, ctx, "a", time.Time{})
	n := f.create(t, ctx, "b", time.Time{})
	if _, err := f.CreateNote(ctx, note.Note{Text: "c"}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("one too many: %v", err)
	}
	if err := f.DeleteNote(ctx, n.ID); err != nil {
		t.Fatal(err)
	}
	f.create(t, ctx, "c", time.Time{})
	f.create(t, auth.AsService(t.Context(), "other"), "x", time.Time{})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	f := newFixture(t, note.Limits{})
	ctx := auth.AsService(t.Context(), "acme")
	f.create(t, ctx, "past", time.Now().Add(-time.Hour))
	f.create(t, ctx, "future", time.Now().Add(time.Hour))
	f.create(t, ctx, "never", time.Time{})
	if err := f.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	notes, _, err := f.ListNotes(ctx, 0, "")
	if err != nil || len(notes) != 2 || notes[0].Text != "never" || !notes[0].ExpiresAt.IsZero() || notes[1].Text != "future" {
		t.Errorf("%v %v", notes, err)
	}
}
