package file

import (
	"context"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

// State is how far a file is.
type State string

// The states of a file, see the package comment.
const (
	Pending   State = "pending"
	Verifying State = "verifying"
	Ready     State = "ready"
	Deleting  State = "deleting"
	Failed    State = "failed"
)

// inspectScope is what a caller needs to read a file before it is ready.
const inspectScope = "files.inspect"

// File describes a file.
type File struct {
	ID           string // UUIDv7
	Filename     string // a name without folders, see ParseName
	Folder       string // names with "/" between them; empty is none
	State        State
	Size         int64
	ContentType  string // what it is as far as can be seen
	DeclaredType string // what the client said
	Checksum     string // SHA-256 in hex; empty until it is known
	Attributes   map[string]string
	Failure      string // why it failed, for people
	CreatedAt    time.Time
	ExpiresAt    time.Time // zero is never
	Duplicate    bool      // an upload was answered with the file of an earlier one

	tenant   string
	object   blob.Ref // but for the key
	uploadID string
	beside   string // what its key ends with, where it is not the file itself but something of it
}

// Key returns the key of the object: it begins with the tenant, and has nothing of what clients choose.
func (f File) Key() string { return f.tenant + "/" + f.ID }

func (f File) ref() blob.Ref {
	return blob.Ref{Key: f.Key() + f.beside, ETag: f.object.ETag, Version: f.object.Version}
}

// GetFile returns a file. Errors: NotFound, also for a file that is being deleted.
func (s *Service) GetFile(ctx context.Context, id string) (File, error) {
	if err := s.ready(); err != nil {
		return File{}, err
	}
	f, err := selectFile(ctx, s.db, id)
	if err == nil && f.isGone() {
		err = errNoFile(id)
	}
	return f, err
}

// Readable returns a file whose content the caller may read. Errors: NotFound.
func (s *Service) Readable(ctx context.Context, id string) (File, error) {
	f, err := s.GetFile(ctx, id)
	if err == nil && f.State != Ready && (f.State != Verifying || f.Checksum == "" || !auth.From(ctx).Allows(inspectScope)) {
		err = errs.New(errs.NotFound, "id: the file %.64q is not ready", id)
	}
	return f, err
}

// isGone reports whether readers no longer see the file: it is deleted, or will be in a moment.
func (f File) isGone() bool {
	return f.State == Deleting || !f.ExpiresAt.IsZero() && !f.ExpiresAt.After(time.Now())
}

// Filter says which files to list: those that match all that is set.
type Filter struct {
	State       State
	ContentType string // a type, or the first part of one with "/*"
	NamePrefix  string
	Folder      string // files in it and in those below it
	From, To    time.Time
	MinSize     int64
	MaxSize     int64 // 0 is any
	Attributes  map[string]string
}

// ListFiles lists the files that match a filter, the latest first, in pages as resource.List has them. Errors: InvalidArgument for
// a token that is not of this list.
func (s *Service) ListFiles(ctx context.Context, filter Filter, size int, token string) (files []File, next string, err error) {
	if err := s.ready(); err != nil {
		return nil, "", err
	}
	list := resource.List[File, uuid.UUID]{
		Of:       []any{"files", auth.TenantOf(ctx), filter},
		Start:    uuid.Max,
		Position: func(f File) string { return f.ID },
		Parse:    uuid.Parse,
		Select: resource.OneMore(func(before uuid.UUID, limit int) ([]File, error) {
			return selectFiles(ctx, s.db, filter, before.String(), limit)
		}),
	}
	return list.Page(size, token)
}

// ListFolders lists the folders right below parent, by name. Errors: InvalidArgument for a token that is not of this list.
func (s *Service) ListFolders(ctx context.Context, parent string, size int, token string) (folders []string, next string, err error) {
	if err := s.ready(); err != nil {
		return nil, "", err
	}
	list := resource.List[string, string]{
		Of:       []any{"folders", auth.TenantOf(ctx), parent},
		Position: func(folder string) string { return folder },
		Parse:    ParseFolder,
		Select: resource.OneMore(func(after string, limit int) ([]string, error) {
			return selectFolders(ctx, s.db, parent, after, limit)
		}),
	}
	return list.Page(size, token)
}

// UpdateFile changes what is said of a file; change gets it as it is. Errors: NotFound; InvalidArgument.
func (s *Service) UpdateFile(ctx context.Context, id string, change func(*File)) (f File, err error) {
	if err := s.ready(); err != nil {
		return File{}, err
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		if f, err = lockFile(ctx, tx, id); err != nil {
			return err
		}
		if f.isGone() {
			return errNoFile(id)
		}
		change(&f)
		if err := f.parse(); err != nil {
			return err
		}
		s.wake(tx)
		return updateFile(ctx, tx, f)
	})
	if err != nil {
		return File{}, err
	}
	return f, nil
}

// parse checks and completes what clients change.
func (f *File) parse() (err error) {
	if f.Filename, err = ParseName(f.Filename); err != nil {
		return err
	}
	if f.Folder, err = ParseFolder(f.Folder); err != nil {
		return err
	}
	if f.isGone() {
		return errs.New(errs.InvalidArgument, "expire_time: a moment in the future is allowed")
	}
	return checkAttributes(f.Attributes)
}

// DeleteFile deletes a file. Its share of the quotas is free at once, its object is removed by a worker. A file that is not there
// is no error.
func (s *Service) DeleteFile(ctx context.Context, id string) error {
	if err := s.ready(); err != nil {
		return err
	}
	return s.db.InTx(ctx, func(tx *pg.Tx) error { return s.deleteTx(ctx, tx, id) })
}

func (s *Service) deleteTx(ctx context.Context, tx *pg.Tx, id string) error {
	f, err := lockFile(ctx, tx, id)
	if errs.Is(err, errs.NotFound) || err == nil && (f.State == Deleting || f.State == Failed) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := markDeleting(ctx, tx, id); err != nil {
		return err
	}
	s.wake(tx)
	if f.State != Ready {
		return nil // Nobody was told that it was there.
	}
	return s.tell(ctx, tx, deleted, f)
}

// InspectFile makes a file ready that is being verified, or fails it for a reason. Doing the same once more changes nothing. Errors:
// NotFound; FailedPrecondition for a file that was not waiting for this.
func (s *Service) InspectFile(ctx context.Context, id string, accept bool, reason string) (f File, err error) {
	if err := s.ready(); err != nil {
		return File{}, err
	}
	err = s.db.InTx(ctx, func(tx *pg.Tx) error {
		if f, err = lockFile(ctx, tx, id); err != nil {
			return err
		}
		switch {
		case f.State == Deleting:
			return errNoFile(id)
		case accept && f.State == Ready, !accept && f.State == Failed:
			return nil
		case f.State != Verifying || f.Checksum == "":
			return errs.New(errs.FailedPrecondition, "id: the file is %s and does not wait to be inspected", f.State)
		case accept:
			f, err = markReady(ctx, tx, id)
			if err != nil {
				return err
			}
			s.wake(tx) // It may expire.
			return s.tell(ctx, tx, created, f)
		}
		f.State, f.Failure = Failed, reason
		s.wake(tx)
		return markFailed(ctx, tx, id, reason)
	})
	if err != nil {
		return File{}, err
	}
	return f, nil
}

func errNoFile(id string) error { return errs.New(errs.NotFound, "id: there is no file %.64q", id) }
