package message

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

// Sizes of operations.
const (
	atOnce       = 1000     // most dead letters of an operation that is finished before the call returns
	chunkLetters = 200      // dead letters in one statement
	chunkBytes   = 16 << 20 // of payload in one statement, roughly
	horizon      = 60       // how many seconds a redrive with a limit may be ahead of its messages
)

// OperationKind is the kind of an operation: Redrive or Purge.
type OperationKind string

// Redrive sends dead letters back to their queue; Purge removes them.
const (
	Redrive OperationKind = "redrive"
	Purge   OperationKind = "purge"
)

// OperationState is the progress of an operation.
type OperationState string

// Planned is a dry run whose token was not used; Running means that the workers carry it out.
const (
	Planned OperationState = "planned"
	Running OperationState = "running"
	Done    OperationState = "done"
)

// Operation is a redrive or purge of the dead letters of a queue, recorded with who started it.
type Operation struct {
	ID           string // UUIDv7; the token of a dry run
	Kind         OperationKind
	Queue        QueueName
	State        OperationState
	Principal    string
	MaxPerSecond int       // of a redrive; 0 means no limit
	Total        int64     // dead letters that were chosen
	Done         int64     // how many of these are redriven or purged
	Skipped      int64     // how many were gone when their turn came
	CreatedAt    time.Time // when it was started, or planned
	EndedAt      time.Time // zero until it is done

	nextDueAt time.Time // earliest due time of the next message; zero before the first
}

// Choice selects the dead letters of a queue for an operation. Exactly one of IDs, Filter and Token must be set.
type Choice struct {
	IDs    []string // UUIDs
	Filter *Filter  // an empty filter selects all dead letters of the queue
	Token  string   // of a dry run: selects exactly what the dry run counted
	// DryRun pins and counts the selected dead letters, and changes nothing. The operation's id is the token for them.
	DryRun bool
}

// Skipped counts the dead letters that were asked for and not selected.
type Skipped struct {
	NotFound    int64 // gone, or of another queue
	InOperation int64 // part of another running operation
}

func (c Choice) check() error {
	set := 0
	for _, is := range []bool{len(c.IDs) > 0, c.Filter != nil, c.Token != ""} {
		if is {
			set++
		}
	}
	if set != 1 {
		return errs.New(errs.InvalidArgument, "ids: exactly one of ids, filter and token must be set, not %d", set)
	}
	if c.DryRun && c.Token != "" {
		return errs.New(errs.InvalidArgument, "dry_run: the token is of a dry run already; use it without dry_run")
	}
	return nil
}

// RedriveDeadLetters sends dead letters back to their queue with their attempts reset, at most maxPerSecond of them per
// second. 0 means no limit, or the limit of the dry run. Up to 1,000 dead letters are redriven when it returns, all or
// none of them; larger redrives are carried out by the workers. A dead letter is never redriven twice, even by concurrent
// calls.
//
// What is redriven counts in the quota of waiting messages: a large redrive goes on once there is room.
//
// Errors: InvalidArgument unless the choice is valid; NotFound for an unknown queue, and for a token that is unknown, is
// older than an hour or was made for another queue or a purge; FailedPrecondition for a token that was used; ResourceExhausted if there
// is no room for all of up to 1,000.
func (s *Service) RedriveDeadLetters(ctx context.Context, queue QueueName, which Choice, maxPerSecond int) (Operation, Skipped, error) {
	return s.operate(ctx, Operation{Kind: Redrive, Queue: queue, MaxPerSecond: maxPerSecond}, which)
}

// PurgeDeadLetters removes dead letters for good. It selects, counts and fails as RedriveDeadLetters does.
func (s *Service) PurgeDeadLetters(ctx context.Context, queue QueueName, which Choice) (Operation, Skipped, error) {
	return s.operate(ctx, Operation{Kind: Purge, Queue: queue}, which)
}

// operate plans an operation unless the choice has the token of a planned one, and starts it unless it is a dry run.
func (s *Service) operate(ctx context.Context, op Operation, which Choice) (_ Operation, skipped Skipped, err error) {
	if err := which.check(); err != nil {
		return Operation{}, Skipped{}, err
	}
	op.Principal, op.ID = auth.From(ctx).ID, which.Token
	defer s.stats.forget(tenantQueue{auth.TenantOf(ctx), op.Queue})
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		if _, _, err := lockPolicy(ctx, tx, op.Queue, false); err != nil {
			return err
		}
		if which.Token == "" {
			if op, skipped, err = s.plan(ctx, tx, op, which); err != nil || which.DryRun {
				return err
			}
		}
		if op, err = startOperation(ctx, tx, op); err != nil {
			return err
		}
		for op.State == Running && op.Total <= atOnce {
			if op, err = s.step(ctx, tx, op); err != nil {
				return err
			}
		}
		if op.State == Running {
			tx.AfterCommit(func() { s.notifier.Notify(channel, newOperations) })
		}
		return nil
	})
	return op, skipped, err
}

// plan pins an operation to the selected dead letters. It will touch no others, whatever happens to the queue meanwhile.
func (s *Service) plan(ctx context.Context, tx *pg.Tx, op Operation, which Choice) (Operation, Skipped, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Operation{}, Skipped{}, err
	}
	op.ID = id.String()
	if err := insertOperation(ctx, tx, op); err != nil {
		return Operation{}, Skipped{}, err
	}
	if err := s.quotas.items.Prepare(ctx, tx); err != nil {
		return Operation{}, Skipped{}, err
	}
	take := func(n int64) error { return s.quotas.items.Take(ctx, tx, n) }
	if which.Filter != nil {
		op, busy, err := pin(ctx, tx, op, *which.Filter, take)
		return op, Skipped{InOperation: busy}, err
	}
	ids := make([]string, len(which.IDs))
	for i, id := range which.IDs {
		if ids[i], err = parseID(id); err != nil {
			return Operation{}, Skipped{}, err
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	op, busy, err := pinNamed(ctx, tx, op, ids)
	if err == nil {
		err = take(op.Total)
	}
	return op, Skipped{NotFound: int64(len(ids)) - op.Total - busy, InOperation: busy}, err
}

// step carries out the next chunk of an operation that tx has locked. The moved messages, the counts and the remaining
// items commit together, so that a crash undoes all of it or nothing. The row of the queue is locked because messages go
// back to the queue. If the queue is gone, its dead letters are being removed too, and are skipped.
func (s *Service) step(ctx context.Context, tx *pg.Tx, op Operation) (Operation, error) {
	letters := chunkLetters
	if _, _, err := lockPolicy(ctx, tx, op.Queue, false); errs.Is(err, errs.NotFound) {
		return skipChunk(ctx, tx, op, letters)
	} else if err != nil {
		return op, err
	}
	if op.MaxPerSecond > 0 {
		letters = min(letters, horizon*op.MaxPerSecond)
	}
	if op.Kind == Purge {
		return purgeChunk(ctx, tx, op, letters)
	}
	// What is redriven waits, and counts in that quota.
	room, err := s.quotas.waiting.TakeUpTo(ctx, tx, min(int64(letters), op.Total-op.Done-op.Skipped))
	if room == 0 && err != nil {
		return op, err
	}
	s.wakeRelay(tx)
	return redriveChunk(ctx, tx, op, int(room))
}

// newOperations returns the loop that carries out running operations. Several workers share them: each chunk is done by
// one.
func (s *Service) newOperations() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "redrives and purges", Channel: channel, Payload: newOperations, Lanes: 1, Log: s.log,
		Late: operationsLate,
		Work: func(ctx context.Context, _ func()) (time.Duration, error) {
			progress, err := s.stepAll(ctx)
			if progress || err != nil {
				return 0, err
			}
			late, err := selectOperationsLate(ctx, s.system)
			return max(-late, relayAgain), err
		},
	})
}

// stepAll carries out one chunk of every running operation of all tenants, so that a large one does not hold up the
// others. progress is false if there was nothing to do.
func (s *Service) stepAll(ctx context.Context) (progress bool, err error) {
	found, err := selectRunning(ctx, s.system)
	for _, r := range found {
		ctx := auth.AsService(ctx, r.tenant) // A step acts for one tenant and sees only its rows.
		failed := s.db.InTx(ctx, func(tx *pg.Tx) error {
			op, claimed, err := claimOperation(ctx, tx, r.id)
			if err != nil || !claimed {
				return err
			}
			_, err = s.step(ctx, tx, op)
			if errs.Is(err, errs.ResourceExhausted) { // It goes on once fewer messages wait.
				return nil
			}
			progress = progress || err == nil
			return err
		})
		err = errors.Join(err, failed)
	}
	return progress, err
}

// GetDeadLetterOperation returns a redrive or purge. Errors: InvalidArgument for an id that is not a UUID; NotFound.
func (s *Service) GetDeadLetterOperation(ctx context.Context, id string) (Operation, error) {
	id, err := parseID(id)
	if err != nil {
		return Operation{}, err
	}
	return selectOperation(ctx, s.db, id)
}

// ListDeadLetterOperations lists the redrives and purges of a queue, the latest first, in pages as resource.List
// describes them. Errors: NotFound for an unknown queue; InvalidArgument for a token that is not of this list.
func (s *Service) ListDeadLetterOperations(ctx context.Context, queue QueueName, size int, token string) (
	operations []Operation, next string, err error,
) {
	list := resource.List[Operation, uuid.UUID]{
		Of:       []any{"operations", auth.TenantOf(ctx), queue.name},
		Start:    uuid.Max,
		Position: func(op Operation) string { return op.ID },
		Parse:    uuid.Parse,
		Select: resource.OneMore(func(before uuid.UUID, limit int) ([]Operation, error) {
			if _, err := selectQueue(ctx, s.db, queue); err != nil {
				return nil, err
			}
			return selectOperations(ctx, s.db, queue, before.String(), limit)
		}),
	}
	return list.Page(size, token)
}
