package file

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/pg"
)

const (
	dueLanes = 2
	dueBatch = 20
	// dueLease is how long a worker has for a batch before another one takes it over.
	dueLease = 2 * time.Minute
	dueAgain = time.Minute // after which what could not be done is tried again
)

// newDue returns the loop that works on files that are due.
func (s *Service) newDue() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "files", Channel: channel, Payload: dueFiles, Lanes: dueLanes, Late: filesLate, Log: s.log,
		Work: func(ctx context.Context, more func()) (time.Duration, error) {
			claimed, err := claimDue(ctx, s.system, dueBatch, dueLease)
			if err != nil {
				return 0, err
			}
			if len(claimed) == 0 {
				late, err := selectFilesLate(ctx, s.system)
				return max(-late, 0), err
			}
			if len(claimed) == dueBatch {
				more()
			}
			for _, f := range claimed {
				s.workOff(context.WithoutCancel(ctx), f)
			}
			return 0, nil
		},
	})
}

// workOff does what is due of one file. What fails comes again by itself.
func (s *Service) workOff(ctx context.Context, d dueFile) {
	ctx, cancel := context.WithTimeout(auth.AsService(ctx, d.tenant), dueLease/2)
	defer cancel()
	if err := s.workOffOnce(ctx, d); err != nil {
		s.log.Warn("a file cannot be worked on, trying again", zap.String("tenant", d.tenant), zap.String("id", d.ID),
			zap.String("state", string(d.State)), zap.Duration("retry_in_ms", dueAgain), zap.Error(err))
		_ = postpone(ctx, s.db, d.ID, time.Now().Add(dueAgain))
	}
}

func (s *Service) workOffOnce(ctx context.Context, d dueFile) (err error) {
	name := map[State]string{Pending: "abandon", Ready: "expire", Deleting: "remove", Failed: "remove", Verifying: "postpone"}[d.State]
	ctx, end := s.startWork(ctx, name, d.ID, d.trace)
	defer func() { end(err) }()
	switch d.State {
	case Pending:
		return s.abandon(ctx, d.File)
	case Ready:
		return s.db.InTx(ctx, func(tx *pg.Tx) error { return s.expireTx(ctx, tx, d.ID) })
	case Deleting, Failed:
		return s.remove(ctx, d)
	default:
		return postpone(ctx, s.db, d.ID, time.Time{}) // Whoever inspects it decides.
	}
}

// abandon fails an upload that nobody continues.
func (s *Service) abandon(ctx context.Context, f File) error {
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		if active, err := isActive(ctx, tx, f.ID, dueLease); active || err != nil {
			return errors.Join(err, postpone(ctx, tx, f.ID, time.Now().Add(s.limits.ResumeWithin)))
		}
		s.wake(tx)
		return markFailed(ctx, tx, f.ID, "the upload was not continued")
	})
}

// expireTx deletes a file whose time is over, unless it was given more meanwhile.
func (s *Service) expireTx(ctx context.Context, tx *pg.Tx, id string) error {
	f, err := lockFile(ctx, tx, id)
	if err != nil || f.State != Ready {
		return nil
	}
	if !f.isGone() {
		return postpone(ctx, tx, id, f.ExpiresAt)
	}
	return s.deleteTx(ctx, tx, id)
}

// remove removes the object of a file, and then its row, unless bytes may still arrive: then it comes again, every hour at the
// latest.
func (s *Service) remove(ctx context.Context, d dueFile) error {
	now := time.Now()
	var failed error
	if d.uploadID != "" || d.State == Failed || !d.writableUntil.IsZero() {
		failed = s.abortAll(ctx, d.Key())
	}
	if err := errors.Join(failed, s.bucket.Remove(ctx, d.Key()), s.removeBeside(ctx, d.Key())); err != nil {
		return err
	}
	if late := now.Add(lateWrites); d.writableUntil.After(late) {
		return postpone(ctx, s.db, d.ID, late)
	}
	if d.writableUntil.After(now) {
		return postpone(ctx, s.db, d.ID, d.writableUntil)
	}
	if err := deletePreviews(ctx, s.db, d.ID); err != nil {
		return err
	}
	return deleteFile(ctx, s.db, d.ID)
}

// abortAll aborts the uploads in parts of a key, also one that its process died before it recorded.
func (s *Service) abortAll(ctx context.Context, key string) error {
	for after, more := noUpload, true; more; {
		begun, next, err := s.bucket.Uploads(ctx, key, after)
		if err != nil || len(begun) == 0 {
			return err
		}
		after, more = begun[len(begun)-1], next
		for _, u := range begun {
			if err := u.Abort(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// RemoveTenant removes the objects of a tenant that is being deleted, see tenant.Deletion. Its rows go with the tenant.
func (s *Service) RemoveTenant(ctx context.Context) (done bool, err error) {
	if s.bucket == nil {
		return true, nil
	}
	ctx, end := s.startWork(ctx, "remove", "", traced{})
	defer func() { end(err) }()
	prefix := auth.TenantOf(ctx) + "/"
	uploads, moreUploads, err := s.bucket.Uploads(ctx, prefix, noUpload)
	if err != nil {
		return false, err
	}
	for _, u := range uploads {
		if err := u.Abort(ctx); err != nil {
			return false, err
		}
	}
	objects, more, err := s.bucket.List(ctx, prefix, "")
	if err != nil {
		return false, err
	}
	for i, o := range objects {
		if i == removeAtOnce {
			return false, nil
		}
		if err := s.bucket.Remove(ctx, o.Key); err != nil {
			return false, err
		}
	}
	return !more && !moreUploads, nil
}

// removeAtOnce is how many objects one call of RemoveTenant removes.
const removeAtOnce = 200
