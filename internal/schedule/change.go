package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

// ChangeKind is what was done to a schedule.
type ChangeKind string

// Values of ChangeKind.
const (
	Created ChangeKind = "create"
	Updated ChangeKind = "update"
	Paused  ChangeKind = "pause"
	Resumed ChangeKind = "resume"
	Deleted ChangeKind = "delete"
)

// Change is something that was done to a schedule.
type Change struct {
	ID       string // UUIDv7
	Schedule Name
	Kind     ChangeKind
	By       string // a principal, or "service"
	At       time.Time
	Note     string
	Version  int64       // of the schedule from then on
	Fields   []string    // that have another value than before
	After    *Definition // nil if it did not change

	tenant, scheduleID string
}

// change returns what was done to a schedule, which is as it is then.
func change(ctx context.Context, s Schedule, kind ChangeKind, note string, now time.Time, fields []string) Change {
	c := Change{
		ID: newID(now), Schedule: s.Name, Kind: kind, By: auth.From(ctx).ID, At: now, Note: note, Version: s.Version, Fields: fields,
		tenant: auth.TenantOf(ctx), scheduleID: s.id,
	}
	if len(fields) > 0 {
		c.After = &s.Definition
	}
	return c
}

// fieldsOf returns the names of the fields in which two definitions differ.
func fieldsOf(before, after Definition) (fields []string) {
	was, is := fieldValues(before), fieldValues(after)
	names := map[string]bool{}
	for _, values := range []map[string]json.RawMessage{was, is} {
		for name := range values {
			names[name] = names[name] || !bytes.Equal(was[name], is[name])
		}
	}
	maps.DeleteFunc(names, func(_ string, differs bool) bool { return !differs })
	return slices.Sorted(maps.Keys(names))
}

// fieldValues returns the fields of a definition, with those of its action beside the others.
func fieldValues(d Definition) (values map[string]json.RawMessage) {
	for _, part := range []any{d, d.Action} {
		encoded, err := json.Marshal(part)
		if err == nil {
			err = json.Unmarshal(encoded, &values)
		}
		if err != nil {
			panic(err) // Both are our own types.
		}
	}
	delete(values, "action")
	return values
}

// ListScheduleChanges lists what was done to a schedule, the latest first, also to one that was deleted, in pages as
// resource.List describes them. Errors: NotFound for a schedule that never was; InvalidArgument for a token that is not of this list.
func (s *Service) ListScheduleChanges(ctx context.Context, name Name, size int, token string) (changes []Change, next string, err error) {
	list := resource.List[Change, uuid.UUID]{
		Of:       []any{"changes", auth.TenantOf(ctx), name.name},
		Start:    uuid.Max,
		Position: func(c Change) string { return c.ID },
		Parse:    uuid.Parse,
		Select: func(before uuid.UUID, size int) ([]Change, bool, error) {
			return selectChanges(ctx, s.db, name, before.String(), size, maxPageBytes)
		},
	}
	changes, next, err = list.Page(size, token)
	if err == nil && len(changes) == 0 {
		return nil, "", errNoSchedule(name)
	}
	return changes, next, err
}

// Pause stops a schedule from firing. Errors: NotFound.
func (s *Service) Pause(ctx context.Context, name Name, note string) (Schedule, error) {
	return s.setPause(ctx, name, note, Paused)
}

// Resume lets a schedule fire again, at its fire times from now on; those within the pause are one skipped run. Errors: NotFound.
func (s *Service) Resume(ctx context.Context, name Name, note string) (Schedule, error) {
	return s.setPause(ctx, name, note, Resumed)
}

func (s *Service) setPause(ctx context.Context, name Name, note string, kind ChangeKind) (found Schedule, err error) {
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		before, now, err := lockSchedule(ctx, tx, name)
		if found = before; err != nil {
			return err
		}
		if kind == Resumed && before.Pause == nil {
			return nil
		}
		due := time.Time{}
		if kind == Paused {
			// What is past belongs to the time before the pause.
			if before.Pause == nil {
				if err := s.claimPast(ctx, tx, &found, before, now); err != nil {
					return err
				}
			}
			found.Pause = &Pause{Note: note, By: auth.From(ctx).ID, At: now}
			if before.Pause != nil {
				found.Pause.By, found.Pause.At = before.Pause.By, before.Pause.At
			}
		} else {
			if err := s.claimPast(ctx, tx, &found, before, now); err != nil {
				return err
			}
			if c, err := found.clock(&s.zones, auth.TenantOf(ctx)); err == nil && !found.nextFire.IsZero() {
				due = c.due(found.nextFire)
			}
			found.Pause = nil
		}
		if err := updatePause(ctx, tx, auth.TenantOf(ctx), found, due); err != nil {
			return err
		}
		s.wakeTicks(tx)
		return insertChange(ctx, tx, change(ctx, found, kind, note, now, nil))
	})
	if err != nil {
		return Schedule{}, err
	}
	return s.withNext(ctx, found)
}
