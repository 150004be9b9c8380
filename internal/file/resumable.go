package file

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"hash"
	"time"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	// uploadLease is for how long a process may not be heard of before another one continues its upload. It says every uploadBeat
	// that it is there, and finds out then whether somebody waits.
	uploadLease = 10 * time.Second
	uploadBeat  = time.Second
	// uploadWait is how long a call waits for an upload that another one works on, and looks every uploadPoll.
	uploadWait = 20 * time.Second
	uploadPoll = 100 * time.Millisecond
	// keepLimit is how long a process may take to store what it has, once it takes no more.
	keepLimit = 15 * time.Second
	// fillTime is how long a part takes bytes before they are stored, as many as there are.
	fillTime = 15 * time.Second
	// maxResumable is the most bytes of an upload that can be continued. A tenth of the numbers that parts can have is left for those
	// that have to be sent again.
	maxResumable = partSize * (blob.MaxParts - blob.MaxParts/10)
	// maxTails is how many objects wait to become a part before they are put together.
	maxTails    = 16
	maxMetadata = 24 << 10
)

// Resumable is an upload that any process continues where another one left off. Its id is that of its file.
//
// What comes of the content is stored in parts of equal size. What is left at the end of a request is too little for one, and is
// stored as an object of its own, a tail; the next part begins with the tails. A commit then says how far the upload is, with the
// state of SHA-256, so the checksum is of the whole, whoever received it.
//
// One process has the lease of an upload at a time, under a token that is larger than all before. A commit wants the token
// to be the latest. What a process writes to the bucket after it has lost its lease is part of nothing: no part is sent under a number
// that was used, and no tail under a name that was.
type Resumable struct {
	File      File      // pending until the last byte is stored
	Length    int64     // of the content; unknown until the client says it
	Received  int64     // bytes that are stored
	Metadata  string    // as the client sent it
	ExpiresAt time.Time // unless more comes before

	expired, leased bool
	reserved        int64
	expected        string // SHA-256 in hex that the content must have; empty is any
	token           int64  // of the lease, where this process has it
	digest          []byte // the state of SHA-256
	tails           []piece
	fresh           []piece // parts that no commit has recorded yet
	stale           []piece // objects that are no longer a part of the upload, once the next commit is done
}

var (
	errUploadGone  = errs.New(errs.NotFound, "id: the upload was given up: it was ended, has failed, or was not continued in time")
	errWanted      = errs.New(errs.Aborted, "another request continues this upload; ask for its offset and go on from there")
	errUploadTaken = errs.New(errs.Aborted, "another process has continued this upload; ask for its offset and go on from there")
	errUploadBusy  = errs.New(errs.Aborted, "another request still works on this upload; try again").After(time.Second)
)

func errNoUpload(id string) error { return errs.New(errs.NotFound, "id: there is no upload %.64q", id) }

// MaxResumable is the most bytes that the caller's tenant may store as one file by an upload that can be continued.
func (s *Service) MaxResumable(ctx context.Context) int64 {
	if most := s.quotas.size.Limit(ctx); most > 0 {
		return min(most, maxResumable)
	}
	return maxResumable
}

// CreateResumable begins an upload that can be continued. The metadata is kept for the client. A Size that is unknown has to be said
// before the end, and takes from the quota as bytes come. With an idempotency key that was used before, it returns that upload.
// Errors: those of UploadFile.
func (s *Service) CreateResumable(ctx context.Context, u Upload, metadata string) (Resumable, error) {
	if err := s.ready(); err != nil {
		return Resumable{}, err
	}
	if err := u.parse(); err != nil {
		return Resumable{}, err
	}
	if len(metadata) > maxMetadata {
		return Resumable{}, errs.New(errs.InvalidArgument, "Upload-Metadata: %d bytes; at most %d are allowed", len(metadata), maxMetadata)
	}
	if most := s.MaxResumable(ctx); u.Size > most {
		return Resumable{}, errTooLarge(most)
	}
	f, err := s.tryReserve(ctx, u)
	if err != nil {
		return Resumable{}, err
	}
	if f.Duplicate {
		return s.sameResumable(ctx, f, u)
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		return insertResumable(ctx, tx, f.ID, u.Size, marshal(sha256.New()), u.Checksum, metadata, s.limits.ResumeWithin)
	})
	if err != nil {
		s.fail(ctx, f, err)
		return Resumable{}, err
	}
	return selectResumable(ctx, s.db, f.ID)
}

// sameResumable returns the upload that was begun before with an idempotency key.
func (s *Service) sameResumable(ctx context.Context, f File, u Upload) (Resumable, error) {
	r, err := selectResumable(ctx, s.db, f.ID)
	if errs.Is(err, errs.NotFound) || err == nil && r.Length != u.Size && r.Length != unknown {
		return r, errs.New(errs.AlreadyExists, "idempotency_key: it was used for the file %s, which is no such upload", f.ID)
	}
	r.File.Duplicate = true
	return r, err
}

// GetResumable returns how far an upload is. Whoever works on it is told to store what it has and let go, so that no more comes after
// that. Errors: NotFound; Aborted if it does not let go within 20 seconds.
func (s *Service) GetResumable(ctx context.Context, id string) (Resumable, error) {
	if err := s.ready(); err != nil {
		return Resumable{}, err
	}
	for end := time.Now().Add(uploadWait); ; {
		r, err := s.live(ctx, id)
		switch {
		case err != nil || r.done():
			return r, err
		case !r.leased && r.Received == r.Length: // It was cut off between the last byte and the end.
			return s.Append(ctx, id, Append{Offset: r.Received, Length: unknown}, nil)
		case !r.leased:
			return r, nil
		}
		if err := wantUpload(ctx, s.db, id); err != nil {
			return r, err
		}
		if !waitUntil(ctx, end) {
			return r, errUploadBusy
		}
	}
}

// EndResumable ends an upload that is not complete, and removes what there is of it. Errors: NotFound; FailedPrecondition for one that is.
func (s *Service) EndResumable(ctx context.Context, id string) error {
	if err := s.ready(); err != nil {
		return err
	}
	r, err := s.live(ctx, id)
	if err != nil {
		return err
	}
	if r.done() {
		return errs.New(errs.FailedPrecondition, "id: the upload is complete; delete the file %s in its place", id)
	}
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		if err := s.deleteTx(ctx, tx, id); err != nil {
			return err
		}
		return refuseUpload(ctx, tx, id)
	})
}

// live returns an upload that is complete or can be continued.
func (s *Service) live(ctx context.Context, id string) (Resumable, error) {
	r, err := selectResumable(ctx, s.db, id)
	if err != nil {
		return r, err
	}
	if f := r.File; f.State == Deleting || f.State == Failed || f.State == Pending && r.expired {
		return r, errUploadGone
	}
	if r.done() {
		r.Length, r.Received, r.ExpiresAt = r.File.Size, r.File.Size, time.Time{}
	}
	return r, nil
}

// done reports whether all of the content is stored.
func (r *Resumable) done() bool { return r.File.State == Verifying || r.File.State == Ready }

// waitUntil waits a little. It returns false at the end.
func waitUntil(ctx context.Context, end time.Time) bool {
	return time.Now().Before(end) && loop.Sleep(ctx, uploadPoll)
}

// takeResumable takes the lease of an upload. What is complete has none.
func (s *Service) takeResumable(ctx context.Context, id string) (*Resumable, error) {
	for end := time.Now().Add(uploadWait); ; {
		r, err := s.live(ctx, id)
		if err != nil || r.done() {
			return &r, err
		}
		token, taken, err := takeUpload(ctx, s.db, id, uploadLease)
		if err != nil {
			return nil, err
		}
		if !taken {
			if !waitUntil(ctx, end) {
				return nil, errUploadBusy
			}
			continue
		}
		// It is read anew: from now on nobody else changes it.
		if r, err = s.live(ctx, id); err == nil {
			r.token = token
			r.tails, err = selectPieces(ctx, s.db, id, false)
		}
		if err != nil {
			s.releaseResumable(ctx, id, token)
			return nil, err
		}
		return &r, nil
	}
}

func (s *Service) releaseResumable(ctx context.Context, id string, token int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), failLimit)
	defer cancel()
	_ = releaseUpload(ctx, s.db, id, token) // Else it ends by itself.
}

// leasedResumable calls work while it keeps the lease of an upload. The context of work outlives ctx for as long as it takes to store what
// was received; it ends when the lease is lost. stop is called when no more is to be received.
func (s *Service) leasedResumable(ctx context.Context, r *Resumable, stop func(why error), work func(ctx context.Context) error) error {
	keep, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer s.releaseResumable(ctx, r.File.ID, r.token)
	defer s.resuming.add(UploadState{auth.TenantOf(ctx), r.File.ID, r.Length, r.Received, time.Now().UTC()})()
	defer context.AfterFunc(ctx, func() {
		if loop.Sleep(keep, keepLimit) {
			cancel(context.DeadlineExceeded)
		}
	})()
	ended := make(chan struct{})
	defer func() { cancel(nil); <-ended }() // It must not renew what was released.
	go func() {
		defer observe.LogPanic(s.log)
		defer close(ended)
		for sure := time.Now(); loop.Sleep(keep, uploadBeat); {
			held, wanted, err := renewUpload(keep, s.db, r.File.ID, r.token, uploadLease)
			switch {
			case err == nil && held:
				sure = time.Now()
			case err == nil, time.Since(sure) > uploadLease:
				stop(errUploadTaken)
				cancel(errUploadTaken)
			}
			if wanted {
				stop(errWanted)
			}
		}
	}()
	err := work(keep)
	if cause := context.Cause(keep); err != nil && errors.Is(cause, errUploadTaken) {
		return cause
	}
	return err
}

// marshal returns the state of a SHA-256.
func marshal(h hash.Hash) []byte {
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic(err) // That of the standard library does not fail.
	}
	return state
}

func unmarshal(state []byte) (hash.Hash, error) {
	h := sha256.New()
	return h, h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state)
}
