package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/pg"
)

const (
	duePreviews = "previews" // the payload of the notification that one is wanted
	// previewLease is how long a worker has for a preview before another one takes it over, previewLimit how long it takes at most.
	previewLease = 2 * time.Minute
	previewLimit = time.Minute
	// previewWait is how long a call waits for a worker, and looks every previewPoll.
	previewWait = 20 * time.Second
	previewPoll = 100 * time.Millisecond
	// previewAttempts is how often a worker may die or fail of one.
	previewAttempts = 3
	// maxPreviews is how many previews a tenant may wait for at a time.
	maxPreviews = 100
	// maxPicture is the most bytes of a file that has a preview.
	maxPicture = 100 << 20
)

// PreviewWidths are the widths that previews have.
var PreviewWidths = []int{64, 128, 256, 512, 1024}

// preview is a small picture of a file that is an image. Its object stands beside that of the file, and goes with it.
type preview struct {
	width     int
	state     string // wanted, ready or refused
	refusal   string
	attempts  int
	size      int64
	checksum  string // SHA-256 in hex
	object    blob.Ref
	createdAt time.Time
}

// PreviewFile returns the preview of an image that is not larger than width, which is one of PreviewWidths: a file whose content is to be
// read, though it is no file by itself. A worker makes it when it is first asked for; the call waits for that up to 20 seconds. Errors:
// NotFound, also for files that have no preview; InvalidArgument; ResourceExhausted; Unavailable if it is not made in time.
func (s *Service) PreviewFile(ctx context.Context, id string, width int) (File, error) {
	if !slices.Contains(PreviewWidths, width) {
		return File{}, errs.New(errs.InvalidArgument, "width: one of %v is allowed", PreviewWidths)
	}
	f, err := s.Readable(ctx, id)
	if err != nil {
		return File{}, err
	}
	if !isPicture(f) {
		return File{}, errNoPreview("it is no JPEG, PNG, GIF or WebP of up to %d bytes", maxPicture)
	}
	p, err := s.want(ctx, f, width)
	for end := time.Now().Add(previewWait); err == nil && p.state == "wanted"; {
		if !time.Now().Before(end) || !loop.Sleep(ctx, previewPoll) {
			return File{}, errs.New(errs.Unavailable, "the preview is not made yet; try again").After(time.Second)
		}
		p, _, err = selectPreview(ctx, s.db, id, width)
	}
	switch {
	case err != nil:
		return File{}, err
	case p.state == "refused":
		return File{}, errNoPreview("%s", p.refusal)
	case p.state != "ready":
		return File{}, errNoFile(id)
	}
	return p.of(f), nil
}

func errNoPreview(format string, args ...any) error {
	return errs.New(errs.NotFound, "id: the file has no preview: "+format, args...).Because("NO_PREVIEW")
}

// isPicture reports whether a file may have a preview. What it is was seen in its bytes.
func isPicture(f File) bool {
	return f.Size <= maxPicture && slices.Contains([]string{"image/jpeg", "image/png", "image/gif", "image/webp"}, baseType(f.ContentType))
}

// of returns the preview as a file that can be read.
func (p preview) of(f File) File {
	f.beside, f.object, f.Size, f.Checksum, f.ContentType, f.CreatedAt = previewSuffix(p.width), p.object, p.size, p.checksum, previewType, p.createdAt
	f.Filename += ".png"
	return f
}

func previewSuffix(width int) string { return fmt.Sprintf(".preview-%d", width) }

// want returns the preview of a file, and has the workers make it.
func (s *Service) want(ctx context.Context, f File, width int) (p preview, err error) {
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		fresh, wanted := false, false
		if p, fresh, wanted, err = wantPreview(ctx, tx, f.ID, width, maxPreviews); err != nil {
			return err
		}
		if !wanted {
			return errs.New(errs.ResourceExhausted, "too many previews of this tenant are still to be made; try again").After(time.Second)
		}
		if fresh {
			tx.AfterCommit(func() { s.notifier.Notify(channel, duePreviews) })
		}
		return nil
	})
	return p, err
}

// newPreviews returns the loop that makes previews, one at a time, since images take memory.
func (s *Service) newPreviews() *pg.Due {
	return s.notifier.NewDue(pg.DueConfig{
		What: "previews", Channel: channel, Payload: duePreviews, Lanes: 1, Shared: true, Late: previewsLate, Log: s.log,
		Work: func(ctx context.Context, _ func()) (time.Duration, error) {
			tenant, id, p, found, err := claimPreview(ctx, s.system, previewLease)
			if err != nil {
				return 0, err
			}
			if !found {
				late, err := selectPreviewsLate(ctx, s.system)
				return max(-late, 0), err
			}
			s.workOffPreview(auth.AsService(context.WithoutCancel(ctx), tenant), id, p)
			return 0, nil
		},
	})
}

// workOffPreview makes a preview. What fails comes again, unless it fails too often.
func (s *Service) workOffPreview(ctx context.Context, id string, p preview) {
	err := errPreviewKills
	if p.attempts <= previewAttempts {
		err = s.makePreview(ctx, id, p.width)
	}
	ctx, stop := context.WithTimeout(ctx, failLimit)
	defer stop()
	var bad *pictureError
	switch {
	case err == nil:
		return
	case errs.Is(err, errs.NotFound): // It was deleted.
		err = deletePreviews(ctx, s.db, id)
	case errors.As(err, &bad):
		err = markRefused(ctx, s.db, id, p.width, bad.Error())
	case p.attempts >= previewAttempts && !errs.Is(err, errs.Unavailable):
		s.log.Warn("a preview cannot be made", zap.String("id", id), zap.Int("width", p.width), zap.Error(err))
		err = markRefused(ctx, s.db, id, p.width, "it cannot be made")
	default:
		s.log.Warn("a preview cannot be made, trying again", zap.String("id", id), zap.Int("width", p.width), zap.Error(err))
		err = postponePreview(ctx, s.db, id, p.width, time.Now().Add(dueAgain))
	}
	if err != nil {
		s.log.Warn("what became of a preview cannot be recorded", zap.String("id", id), zap.Error(err)) // Its lease ends.
	}
}

var errPreviewKills = errors.New("as many processes ended while they made it")

// makePreview makes and stores a preview.
func (s *Service) makePreview(ctx context.Context, id string, width int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, previewLimit)
	defer cancel()
	ctx, end := s.startWork(ctx, "preview", id, traced{})
	defer func() {
		if bad := (*pictureError)(nil); errors.As(err, &bad) {
			end(nil) // That it is no picture is an outcome.
			return
		}
		end(err)
	}()
	f, err := s.GetFile(ctx, id)
	if err != nil {
		return err
	}
	source, err := s.open(ctx, f, 0, f.Size)
	if err != nil {
		return err
	}
	defer source.Close()
	in := &reported{Reader: source}
	small, err := shrink(in, width)
	if in.err != nil {
		return in.err // The bucket's, not the picture's.
	}
	if err != nil {
		return err
	}
	sum := sha256.Sum256(small)
	f.beside = previewSuffix(width)
	object, err := s.bucket.Put(ctx, f.ref().Key, bytes.NewReader(small), int64(len(small)))
	if err != nil {
		return err
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		now, err := lockFile(ctx, tx, id)
		if err == nil && now.isGone() {
			err = errNoFile(id)
		}
		if err != nil {
			return err
		}
		return markMade(ctx, tx, id, width, int64(len(small)), sum[:], object)
	})
	if errs.Is(err, errs.NotFound) {
		return errors.Join(err, s.bucket.RemoveObject(ctx, object))
	}
	return err
}

// reported keeps the error of a reader, which a decoder may hide.
type reported struct {
	io.Reader
	err error
}

func (r *reported) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
