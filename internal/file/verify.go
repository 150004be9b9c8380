package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

// unverified is the payload of the notification that a file is to be read.
const unverified = "unverified"

const (
	verifyLanes = 2
	// verifyLease is how long a worker may be silent about a file that it reads before another one begins anew.
	verifyLease = 2 * time.Minute
	verifyBuf   = 256 << 10
)

// newVerifying returns the loop that finds out the SHA-256 of files that the bucket has not checked.
func (s *Service) newVerifying() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "files to verify", Channel: channel, Payload: unverified, Lanes: verifyLanes, Shared: true, Late: unverifiedLate, Log: s.log,
		Work: func(ctx context.Context, more func()) (time.Duration, error) {
			claimed, err := claimUnverified(ctx, s.system)
			if err != nil {
				return 0, err
			}
			if len(claimed) == 0 {
				late, err := selectUnverifiedLate(ctx, s.system)
				return max(-late, 0), err
			}
			more()
			s.verify(ctx, claimed[0])
			return 0, nil
		},
	})
}

// verify reads a file that a worker has claimed, and decides on it. What cannot be read now is read again later, at once by
// another worker if this one ends.
func (s *Service) verify(ctx context.Context, d Direct) {
	ctx, end := s.startVerifying(auth.AsService(ctx, d.tenant), d)
	err := s.verifyOnce(ctx, d)
	end(err)
	if err == nil {
		return
	}
	again := dueAgain
	if ctx.Err() != nil {
		again = 0
	} else {
		s.log.Warn("a file cannot be verified, trying again", zap.String("tenant", d.tenant), zap.String("id", d.ID),
			zap.Duration("retry_in_ms", again), zap.Error(err))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), failLimit)
	defer cancel()
	if _, err = verifyAt(ctx, s.db, d.ID, time.Now().Add(again)); err != nil {
		s.log.Warn("a file that cannot be verified waits for its lease", zap.String("id", d.ID), zap.Error(err))
	}
	s.notifier.Notify(channel, unverified)
}

func (s *Service) verifyOnce(ctx context.Context, d Direct) error {
	if d.State != Verifying { // It was deleted.
		_, err := verifyAt(ctx, s.db, d.ID, time.Time{})
		return err
	}
	var sum []byte
	err := renewing(ctx, func(ctx context.Context) (bool, error) {
		return verifyAt(ctx, s.db, d.ID, time.Now().Add(verifyLease))
	}, func(ctx context.Context) (err error) {
		sum, err = s.digest(ctx, d.File)
		return err
	})
	switch {
	case errors.Is(err, errGivenUp):
		return nil
	case errs.Is(err, errs.DataLoss):
		return s.refuse(ctx, d.File, "the content was replaced or removed before it was verified")
	case err != nil:
		return err
	}
	if got := hex.EncodeToString(sum); d.expected != "" && got != d.expected {
		return s.refuse(ctx, d.File, "checksum: the bytes have the SHA-256 "+got+", not "+d.expected)
	}
	return s.verified(ctx, d.File, sum)
}

// digest reads the content of a file.
func (s *Service) digest(ctx context.Context, f File) ([]byte, error) {
	r, err := s.open(ctx, f, 0, f.Size)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	hash := sha256.New()
	_, err = io.CopyBuffer(hash, r, make([]byte, verifyBuf))
	return hash.Sum(nil), err
}

// verified records the SHA-256 of a file: it is ready, unless it is to be inspected.
func (s *Service) verified(ctx context.Context, f File, sum []byte) error {
	state, err := s.stateOfStored(ctx)
	if err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		f, verified, err := markVerified(ctx, tx, f.ID, sum, state)
		if err != nil || !verified {
			return err
		}
		return s.announce(ctx, tx, f)
	})
}

// refuse fails a file whose bytes are not what they were to be.
func (s *Service) refuse(ctx context.Context, f File, why string) error {
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		s.wake(tx)
		return markFailed(ctx, tx, f.ID, why)
	})
}
