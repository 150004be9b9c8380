package tenant

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const (
	deleting = "deleting" // the payload of notifications that tenants are to be deleted

	deleteBatch = 1000        // rows in one statement
	deleteFor   = time.Second // bounds one step of a deletion; then it is the turn of other tenants
	// deleteLease is how long a process may work on a deletion before another one takes over; deleteLimit ends a step within it.
	deleteLease = 15 * time.Second
	deleteLimit = 10 * time.Second
	deleteAgain = time.Second // before a domain that is not done is called again
	deleteRetry = 5 * time.Second
)

// Deletion removes what a domain has of a tenant that is being deleted outside of the tables, such as objects, or queues
// on the broker. ctx acts for the tenant. Each call does a part of it, within seconds, and Deletion is called until it
// reports done. It may be called again after that, and in several processes.
type Deletion func(ctx context.Context) (done bool, err error)

// OnDelete adds a Deletion. All Deletions finish before the rows are removed, which needs no domain. It must be called
// before Run and the first call.
func (s *Service) OnDelete(d Deletion) { s.deletions = append(s.deletions, d) }

// DeleteTenant deletes a tenant with its keys and everything that is left of it, such as records of past operations. Its
// keys are refused at once. Large amounts of data are removed in small steps; until everything is gone, GetTenant returns
// the tenant, and its name is not free. Deleting it once more changes nothing. Errors: NotFound; FailedPrecondition for
// the default tenant, and for a tenant that still has something that a quota counts.
func (s *Service) DeleteTenant(ctx context.Context, name string) error {
	if name == auth.DefaultTenant {
		return errs.New(errs.FailedPrecondition, "name: the tenant %q is always there", name)
	}
	if checkName(name) != nil {
		return errNoTenant(name)
	}
	begun := false
	err := s.change(ctx, func(tx *pg.Tx) error {
		t, err := lockTenant(ctx, tx, name)
		if err != nil || t.isDeleted() {
			return err
		}
		left, err := s.left(ctx, tx, name)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			return errs.New(errs.FailedPrecondition, "name: the tenant still has %s; delete them first", strings.Join(left, " and "))
		}
		begun = true
		return markDeleted(ctx, tx, name, deleteLease)
	})
	if err != nil || !begun {
		return err
	}
	// The deletion is committed, so it goes on even if the caller goes away.
	return s.goOn(context.WithoutCancel(ctx), name)
}

// newDeleting returns the loop that continues deletions which other processes began and did not finish.
func (s *Service) newDeleting(n *pg.Notifier) *pg.Due {
	return n.NewDue(pg.DueConfig{
		What: "deletions of tenants", Channel: channel, Payload: deleting, Lanes: 1, Log: s.log,
		Late: deletionsLate,
		Work: func(ctx context.Context, _ func()) (time.Duration, error) {
			name, claimed, err := claimDeletion(ctx, s.system, deleteLease)
			if err != nil {
				return 0, err
			}
			if claimed {
				return 0, s.goOn(context.WithoutCancel(ctx), name)
			}
			late, err := selectDeletionsLate(ctx, s.system)
			return max(-late, deleteAgain), err
		},
	})
}

// goOn does one step of the deletion of a tenant, and schedules the next one unless the deletion is finished. A failure
// is logged and tried again.
func (s *Service) goOn(ctx context.Context, name string) error {
	acting, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	next, err := s.deleteSome(acting, name)
	if err != nil {
		next = deleteRetry
		s.log.Warn("the deletion of a tenant does not go on, trying again", zap.String("tenant", name), zap.Duration("retry_in_ms", next), zap.Error(err))
	}
	if next < 0 {
		return nil
	}
	if err := postponeDeletion(ctx, s.system, name, next); err != nil {
		return err
	}
	s.notifier.Notify(channel, deleting)
	return nil
}

// deleteSome does a part of a deletion. next is when to continue; it is negative when everything is gone.
func (s *Service) deleteSome(ctx context.Context, name string) (next time.Duration, err error) {
	for _, d := range s.deletions {
		if done, err := d(auth.AsService(ctx, name)); err != nil || !done {
			return deleteAgain, err
		}
	}
	tables, err := selectTables(ctx, s.system)
	if err != nil {
		return 0, err
	}
	end := time.Now().Add(deleteFor)
	for _, table := range tables {
		for more := true; more; {
			if time.Now().After(end) {
				return 0, nil
			}
			if more, err = s.deleteStep(ctx, name, table); err != nil {
				return 0, err
			}
		}
	}
	return -1, s.change(ctx, func(tx *pg.Tx) error { return deleteTenant(ctx, tx, name) })
}

// deleteStep deletes some rows of a tenant. It does nothing if the deletion is finished, even if there is a new tenant of
// that name.
func (s *Service) deleteStep(ctx context.Context, name, table string) (more bool, err error) {
	err = s.system.InTx(ctx, func(tx *pg.Tx) error {
		mine, err := keepDeletion(ctx, tx, name)
		if err != nil || !mine {
			return err
		}
		more, err = deleteRows(ctx, tx, name, table, deleteBatch)
		return err
	})
	return more, err
}
