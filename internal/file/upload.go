package file

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	// pendingLease is how long a process may leave an upload alone before it fails.
	pendingLease = 2 * time.Minute
	leaseEvery   = pendingLease / 4
	// lateWrites is for how long a request that was given up may still arrive at the bucket.
	lateWrites = time.Hour
	failLimit  = 10 * time.Second
	// sameKeyWait is how long an upload waits for another one with its idempotency key.
	sameKeyWait = 30 * time.Second
	sameKeyPoll = 200 * time.Millisecond
	maxKey      = 255
)

// unknown is the Size of an upload whose length is not known.
const unknown = -1

// Upload is what a client says of a file that it uploads.
type Upload struct {
	Filename     string // a path of any system; its last part counts
	Folder       string
	DeclaredType string
	// Size is the number of bytes that will come; unknown, -1, needs memory for parts.
	Size int64
	// Slack is how many more bytes may come than Size says: that of a form is known but for a last line break.
	Slack          int
	Checksum       string // SHA-256 in hex that the bytes must have; empty is any
	Attributes     map[string]string
	ExpiresAt      time.Time // zero is never
	IdempotencyKey string    // empty is none
}

// parse checks and completes an upload.
func (u *Upload) parse() (err error) {
	if u.Filename, err = ParseName(u.Filename); err != nil {
		return err
	}
	if u.Folder, err = ParseFolder(u.Folder); err != nil {
		return err
	}
	if u.DeclaredType, err = parseType(u.DeclaredType); err != nil {
		return err
	}
	if err := checkAttributes(u.Attributes); err != nil {
		return err
	}
	if sum, err := hex.DecodeString(u.Checksum); err != nil || len(sum) != 0 && len(sum) != 32 {
		return errs.New(errs.InvalidArgument, "checksum: 64 hex digits of a SHA-256 are allowed")
	}
	u.Checksum = strings.ToLower(u.Checksum)
	switch {
	case len(u.IdempotencyKey) > maxKey || !pg.IsText(u.IdempotencyKey):
		return errs.New(errs.InvalidArgument, "idempotency_key: up to %d bytes of UTF-8 are allowed", maxKey)
	case !u.ExpiresAt.IsZero() && !u.ExpiresAt.After(time.Now()):
		return errs.New(errs.InvalidArgument, "expire_time: a moment in the future is allowed")
	case u.Size < unknown:
		return errs.New(errs.InvalidArgument, "size: it must not be negative")
	}
	return nil
}

// UploadFile stores the bytes of body as a file. It reads body once, as fast as the storage takes the bytes, and to its end. ctx has no
// deadline: body returns an error when its client does not go on. Errors: those of body; InvalidArgument, also for bytes that do
// not match Size or Checksum; ResourceExhausted for a file that is too large (FILE_TOO_LARGE) or passes a quota
// (QUOTA_EXCEEDED); AlreadyExists for an idempotency key that was used with other bytes; Aborted; Unavailable. After an error
// there is no file, unless it is Unavailable from the database.
func (s *Service) UploadFile(ctx context.Context, u Upload, body io.Reader) (File, error) {
	if err := s.ready(); err != nil {
		return File{}, err
	}
	if err := u.parse(); err != nil {
		return File{}, err
	}
	f, err := s.reserve(ctx, u)
	if err != nil {
		return File{}, err
	}
	if f.Duplicate {
		return f, s.compare(body, f)
	}
	var c content
	err = s.leased(ctx, f, func(ctx context.Context) (err error) {
		if c, err = s.receive(ctx, f, u, body); err == nil {
			err = c.check(u)
		}
		return err
	})
	if err == nil {
		f, err = s.finish(ctx, f, c)
	}
	if err != nil {
		s.fail(ctx, f, err)
		return File{}, err
	}
	return f, nil
}

// reserve creates the row of an upload, with its share of the quotas. With an idempotency key that was used before, it returns the
// file of that upload as a duplicate, once it is there.
func (s *Service) reserve(ctx context.Context, u Upload) (f File, err error) {
	if most := s.quotas.size.Limit(ctx); most > 0 && u.Size > most {
		return File{}, errTooLarge(most)
	}
	for end := time.Now().Add(sameKeyWait); ; {
		f, err := s.tryReserve(ctx, u)
		if err != nil || !f.Duplicate || f.State != Pending && f.Checksum != "" {
			return f, err
		}
		if time.Now().After(end) {
			return File{}, errs.New(errs.Aborted, "idempotency_key: another upload with this key goes on; try again later").After(time.Second)
		}
		if !loop.Sleep(ctx, sameKeyPoll) {
			return File{}, ctx.Err()
		}
	}
}

func (s *Service) tryReserve(ctx context.Context, u Upload) (f File, err error) {
	err = s.db.InTx(ctx, func(tx *pg.Tx) (err error) {
		f, err = s.reserveTx(ctx, tx, u)
		return err
	})
	return f, err
}

func (s *Service) reserveTx(ctx context.Context, tx *pg.Tx, u Upload) (f File, err error) {
	id, err := uuid.NewV7()
	if err != nil {
		return File{}, err
	}
	if f, err = s.earlier(ctx, tx, u); err != nil || f.Duplicate {
		return f, err
	}
	reserved := max(u.Size, 0)
	if err = s.quotas.count.Take(ctx, tx, 1); err == nil {
		err = s.quotas.bytes.Take(ctx, tx, reserved)
	}
	inserted := false
	if err == nil {
		f, inserted, err = insertFile(ctx, tx, id.String(), u, reserved, pendingLease)
	}
	if inserted || err != nil && !errs.Is(err, errs.ResourceExhausted) {
		return f, err
	}
	// Meanwhile another upload may have taken the key, and the last of the quota.
	full := err
	if f, err = s.earlier(ctx, tx, u); err == nil && !f.Duplicate {
		err = full
	}
	return f, err
}

// earlier returns the file of an earlier upload with the same idempotency key, as a duplicate, if there is one.
func (s *Service) earlier(ctx context.Context, tx *pg.Tx, u Upload) (f File, err error) {
	if u.IdempotencyKey == "" {
		return File{}, nil
	}
	f, found, err := selectByKey(ctx, tx, u.IdempotencyKey)
	f.Duplicate = found
	return f, err
}

// compare reads a body that is uploaded again, and wants it to be that of the file.
func (s *Service) compare(body io.Reader, f File) error {
	in := newIntake(body, f.Size)
	_, err := io.Copy(io.Discard, in)
	if err != nil && !errors.Is(err, errLong) {
		return err
	}
	if c := in.content(); err != nil || f.Checksum != hex.EncodeToString(c.checksum[:]) {
		return errs.New(errs.AlreadyExists, "idempotency_key: it was used for the file %s, which has other bytes", f.ID)
	}
	return nil
}

// leased calls work while it keeps renewing the lease of a pending file. The context of work ends when the file is no longer
// pending.
func (s *Service) leased(ctx context.Context, f File, work func(ctx context.Context) error) error {
	return renewing(ctx, func(ctx context.Context) (bool, error) { return extendLease(ctx, s.db, f.ID, pendingLease) }, work)
}

// renewing calls work while it keeps renewing a lease. The context of work ends when that is lost.
func renewing(ctx context.Context, renew func(ctx context.Context) (renewed bool, err error), work func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for loop.Sleep(ctx, leaseEvery) {
			if renewed, err := renew(ctx); err == nil && !renewed {
				cancel(errGivenUp)
			}
		}
	}()
	return work(ctx)
}

// finish makes a file of a pending row and what was stored: it is ready, or verifying until it was inspected.
func (s *Service) finish(ctx context.Context, f File, c content) (File, error) {
	state, err := s.stateOfStored(ctx)
	if err != nil {
		return f, err
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		stored, pending, err := markStored(ctx, tx, f.ID, c, state)
		if err != nil {
			return err
		}
		if !pending {
			return errGivenUp
		}
		f = stored
		return s.announce(ctx, tx, f)
	})
	return f, err
}

// stateOfStored returns the state of a file whose bytes are stored and whose SHA-256 is known.
func (s *Service) stateOfStored(ctx context.Context) (State, error) {
	if s.limits.InspectQueue == "" {
		return Ready, nil
	}
	return Verifying, s.ensureInspectQueue(ctx)
}

// announce tells of a file whose bytes are stored and whose SHA-256 is known: its inspectors or, if it is ready, everybody.
func (s *Service) announce(ctx context.Context, tx *pg.Tx, f File) error {
	if f.State == Verifying {
		return s.askInspectors(ctx, tx, f)
	}
	s.wake(tx) // It may expire.
	return s.tell(ctx, tx, created, f)
}

// fail fails a pending file, as far as the database can be reached; else its lease does.
func (s *Service) fail(ctx context.Context, f File, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), failLimit)
	defer cancel()
	text := "the upload broke off"
	var known *errs.Error
	if errors.As(why, &known) {
		text = known.Message
	}
	_ = s.db.InTx(ctx, func(tx *pg.Tx) error {
		s.wake(tx)
		return markFailed(ctx, tx, f.ID, text)
	})
}

var errGivenUp = errs.New(errs.Aborted, "the upload was given up in the meantime: it was deleted, or nothing was heard of it for too long")

func errTooLarge(most int64) error {
	return errs.New(errs.ResourceExhausted, "the file is too large: at most %d bytes are allowed", most).Because("FILE_TOO_LARGE")
}
