package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

const (
	// directTime is how long an upload by URL may take unless its client says otherwise, and downloadTime how long a URL for a
	// download is valid.
	directTime   = time.Hour
	downloadTime = 15 * time.Minute
	// lateDirect is for how long after its URL has expired a request may still arrive at the bucket: it counts when it begins.
	lateDirect = 6 * time.Hour
	// mostGivenUp is how many rows of a tenant are kept because a request for them may still arrive.
	mostGivenUp = 100_000
	// usualPart is the least size of parts whose client did not choose one.
	usualPart = 64 << 20
	maxURLs   = 100
)

// emptySum is the SHA-256 of nothing.
var emptySum = sha256.Sum256(nil)

// Direct is an upload whose bytes a client sends to the bucket by itself.
type Direct struct {
	File
	PartSize int64 // 0 is one PUT
	Until    time.Time
	Request  blob.Signed // empty for an upload in parts, and for one that is complete

	size     int64  // that it is to have
	expected string // likewise, SHA-256 in hex; empty is any
	trace    traced // of the call that completed it, while it is to be verified
}

// PartCount is how many parts an upload has.
func (d Direct) PartCount() int {
	if d.PartSize == 0 {
		return 0
	}
	return int((d.size + d.PartSize - 1) / d.PartSize)
}

// part returns where a part is in the file, and its size.
func (d Direct) part(number int) (offset, size int64) {
	offset = int64(number-1) * d.PartSize
	return offset, min(d.PartSize, d.size-offset)
}

// CreateUploadUrl reserves a file whose bytes a client sends to the bucket by itself within valid; 0 is an hour. partSize is that of
// parts, or 0 for one PUT, if that is possible. Errors: InvalidArgument; ResourceExhausted; AlreadyExists for an idempotency key
// that was used for another upload; Aborted; Unavailable.
func (s *Service) CreateUploadUrl(ctx context.Context, u Upload, partSize int64, valid time.Duration) (Direct, error) {
	if err := s.ready(); err != nil {
		return Direct{}, err
	}
	if most := s.quotas.size.Limit(ctx); most > 0 && u.Size > most {
		return Direct{}, errTooLarge(most)
	}
	partSize, err := s.parseDirect(&u, partSize)
	if err != nil {
		return Direct{}, err
	}
	if valid == 0 {
		valid = directTime
	}
	var d Direct
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		f, err := s.reserveTx(ctx, tx, u)
		switch {
		case err != nil:
			return err
		case f.Duplicate:
			d, err = selectDirect(ctx, tx, f.ID)
			d.Duplicate = true
			return err
		}
		if err := refuseGivenUp(ctx, tx, s.givenUp); err != nil {
			return err
		}
		d, err = markDirect(ctx, tx, f.ID, u, partSize, valid)
		return err
	})
	if err != nil {
		return Direct{}, err
	}
	if d.Duplicate {
		if err := d.isFor(u, partSize); err != nil || d.State != Pending {
			return d, err
		}
	}
	if d, err = s.offer(ctx, d); err != nil && !d.Duplicate {
		s.fail(ctx, d.File, err)
	}
	return d, err
}

// parseDirect checks and completes an upload, and returns the size of its parts.
func (s *Service) parseDirect(u *Upload, partSize int64) (int64, error) {
	if err := u.parse(); err != nil {
		return 0, err
	}
	if u.DeclaredType == "" {
		u.DeclaredType = unknownType
	}
	switch {
	case u.Size < 0:
		return 0, errs.New(errs.InvalidArgument, "size: it is needed")
	case u.Size == 0: // There are no parts without bytes.
		partSize = 0
		if u.Checksum == "" {
			u.Checksum = hex.EncodeToString(emptySum[:])
		}
	case partSize == 0 && u.Size > s.maxPut:
		const mib = 1 << 20
		least := (u.Size + blob.MaxParts - 1) / blob.MaxParts
		partSize = min(max(usualPart, (least+mib-1)/mib*mib), s.maxPut)
	}
	switch {
	case partSize == 0 && u.Checksum == "":
		return 0, errs.New(errs.InvalidArgument, "checksum: it is needed, unless the upload is in parts (part_size)")
	case partSize != 0 && (partSize < blob.MinPart || partSize > blob.MaxPut):
		return 0, errs.New(errs.InvalidArgument, "part_size: %d to %d bytes are allowed", blob.MinPart, int64(blob.MaxPut))
	case partSize != 0 && u.Size > partSize*blob.MaxParts:
		return 0, errs.New(errs.InvalidArgument, "part_size: at most %d parts are allowed", blob.MaxParts)
	}
	return partSize, nil
}

// isFor returns an error unless the upload is the one that is asked for again.
func (d Direct) isFor(u Upload, partSize int64) error {
	switch {
	case d.State == Pending && !d.Until.After(time.Now()):
		return errs.New(errs.Aborted, "idempotency_key: an upload by another way goes on with this key, or one has expired; try again later").After(time.Second)
	case d.Until.IsZero(), d.size != u.Size, d.expected != u.Checksum, d.PartSize != partSize, d.DeclaredType != u.DeclaredType:
		return errs.New(errs.AlreadyExists, "idempotency_key: it was used for another upload, of the file %s", d.ID)
	}
	return nil
}

// offer adds to a pending upload what its client needs to go on.
func (s *Service) offer(ctx context.Context, d Direct) (Direct, error) {
	if d.PartSize > 0 {
		return s.begin(ctx, d)
	}
	sum, err := hex.DecodeString(d.expected)
	if err == nil {
		d.Request, err = s.bucket.SignPut(ctx, d.Key(), blob.Sending{Size: d.size, ContentType: d.DeclaredType, Checksum: sum}, time.Until(d.Until))
	}
	return d, err
}

// begin begins an upload in parts, unless it has begun.
func (s *Service) begin(ctx context.Context, d Direct) (Direct, error) {
	if d.uploadID != "" {
		return d, nil
	}
	upload, err := s.bucket.Start(ctx, d.Key())
	if err != nil {
		return d, err
	}
	begun, err := beginParts(ctx, s.db, d.ID, upload)
	if err != nil {
		return d, err
	}
	if !begun { // Another call has, or the upload was given up.
		if err := upload.Abort(ctx); err != nil {
			return d, err
		}
		return s.pending(ctx, d.ID)
	}
	d.uploadID = upload.ID
	return d, nil
}

// pending returns an upload that its client may go on with. Errors: NotFound; FailedPrecondition.
func (s *Service) pending(ctx context.Context, id string) (Direct, error) {
	d, err := selectDirect(ctx, s.db, id)
	switch {
	case err != nil:
		return d, err
	case d.isGone():
		return d, errNoFile(id)
	case d.Until.IsZero():
		return d, errs.New(errs.FailedPrecondition, "id: the file is not uploaded by URL")
	case d.State == Failed:
		return d, errs.New(errs.FailedPrecondition, "id: the upload has failed: %s", d.Failure)
	case d.State != Pending:
		return d, errs.New(errs.FailedPrecondition, "id: the upload is complete")
	case !d.Until.After(time.Now()):
		return d, errs.New(errs.FailedPrecondition, "id: the time for the upload is over")
	}
	return d, nil
}

// PartURL is the request that sends a part.
type PartURL struct {
	Number       int
	Offset, Size int64
	Request      blob.Signed
}

// CreatePartUrls returns the requests for up to count parts of an upload from a first one. Errors: NotFound; FailedPrecondition;
// InvalidArgument for parts that there are not.
func (s *Service) CreatePartUrls(ctx context.Context, id string, first, count int) (d Direct, parts []PartURL, err error) {
	if err := s.ready(); err != nil {
		return Direct{}, nil, err
	}
	if d, err = s.pending(ctx, id); err != nil {
		return d, nil, err
	}
	if d.PartSize == 0 {
		return d, nil, errs.New(errs.FailedPrecondition, "id: the upload is not in parts")
	}
	if count < 1 || count > maxURLs || first < 1 || first > d.PartCount() {
		return d, nil, errs.New(errs.InvalidArgument, "first, count: the upload has %d parts, of which up to %d are returned", d.PartCount(), maxURLs)
	}
	if d, err = s.begin(ctx, d); err != nil { // The process that created it died before.
		return d, nil, err
	}
	upload := s.bucket.Upload(d.Key(), d.uploadID)
	for number := first; number < first+count && number <= d.PartCount(); number++ {
		p := PartURL{Number: number}
		p.Offset, p.Size = d.part(number)
		if p.Request, err = upload.SignPart(ctx, int32(number), p.Size, time.Until(d.Until)); err != nil {
			return d, nil, err
		}
		parts = append(parts, p)
	}
	return d, parts, nil
}

// AbortUpload gives up an upload by URL. Doing it again changes nothing. Errors: NotFound; FailedPrecondition for a file that is
// complete, and for an upload by another way.
func (s *Service) AbortUpload(ctx context.Context, id string) error {
	if err := s.ready(); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *pg.Tx) error {
		f, err := lockFile(ctx, tx, id)
		if err != nil {
			return err
		}
		d, err := selectDirect(ctx, tx, id)
		switch {
		case err != nil:
			return err
		case f.isGone():
			return errNoFile(id)
		case d.Until.IsZero():
			return errs.New(errs.FailedPrecondition, "id: the file is not uploaded by URL")
		case f.State == Failed:
			return nil
		case f.State != Pending:
			return errs.New(errs.FailedPrecondition, "id: the upload is complete; DeleteFile deletes the file")
		}
		s.wake(tx)
		return markFailed(ctx, tx, id, "the upload was aborted")
	})
}

// CreateDownloadUrl returns a request for the content of a file, which is valid for a time, 0 being 15 minutes, and no longer than
// the file is there. Errors: NotFound; InvalidArgument.
func (s *Service) CreateDownloadUrl(ctx context.Context, id, kind, name string, valid time.Duration) (request blob.Signed, until time.Time, err error) {
	f, err := s.Readable(ctx, id)
	if err != nil {
		return request, until, err
	}
	shown, err := disposed(f, kind, name)
	if err != nil {
		return request, until, err
	}
	if valid == 0 {
		valid = downloadTime
	}
	now := time.Now()
	if until = now.Add(valid); !f.ExpiresAt.IsZero() && f.ExpiresAt.Before(until) {
		until = f.ExpiresAt
	}
	request, err = s.bucket.SignGet(ctx, f.ref(), f.ContentType, shown, max(until.Sub(now), time.Second))
	return request, until, err
}
