package file

import (
	"context"
	"time"

	"plinth/internal/auth"
	"plinth/internal/blob"
)

const (
	sweepInterval = 10 * time.Minute
	sweepBatch    = 100
)

// sweepUploads removes what processes that had lost their lease stored of uploads that are over, and forgets these.
func (s *Service) sweepUploads(ctx context.Context) error {
	for {
		ended, err := selectEnded(ctx, s.system, lateWrites, sweepBatch)
		if err != nil {
			return err
		}
		for _, f := range ended {
			ctx := auth.AsService(ctx, f.tenant)
			if err := s.removeTails(ctx, f.Key()); err != nil {
				return err
			}
			if err := deleteResumable(ctx, s.db, f.ID); err != nil {
				return err
			}
		}
		if len(ended) < sweepBatch {
			return nil
		}
	}
}

// removeTails removes the tails of an upload that is over, and parts that are part of nothing.
func (s *Service) removeTails(ctx context.Context, key string) error {
	if err := s.removeEach(ctx, key+".tail-"); err != nil {
		return err
	}
	for after, more := noUpload, true; more; {
		var begun []blob.Begun
		var err error
		if begun, more, err = s.bucket.Uploads(ctx, key, after); err != nil {
			return err
		}
		for _, u := range begun {
			after = u
			if u.Key != key {
				continue
			}
			if err := u.Abort(ctx); err != nil {
				return err
			}
		}
		more = more && len(begun) > 0
	}
	return nil
}

// removeBeside removes what is stored of a file beside its object.
func (s *Service) removeBeside(ctx context.Context, key string) error {
	return s.removeEach(ctx, key+".")
}

// removeEach removes all objects whose keys begin with a prefix.
func (s *Service) removeEach(ctx context.Context, prefix string) error {
	for more := true; more; {
		var objects []blob.Object
		var err error
		if objects, more, err = s.bucket.List(ctx, prefix, ""); err != nil {
			return err
		}
		for _, o := range objects {
			if err := s.bucket.Remove(ctx, o.Key); err != nil {
				return err
			}
		}
	}
	return nil
}
