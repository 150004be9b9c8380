package file

import (
	"context"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"plinth/internal/blob"
	"plinth/internal/errs"
	"plinth/internal/loop"
	"plinth/internal/message"
	"plinth/internal/observe"
	"plinth/internal/pg"
	"plinth/internal/tenant"
)

// A notification on the channel, with the payload dueFiles, says that a row of files may be due before all others.
const (
	channel  = "plinth_files"
	dueFiles = "due"
)

// Service implements the rules of files.
type Service struct {
	db       *pg.DB     // acts for the tenant of the context
	system   *pg.System // acts for all tenants
	notifier *pg.Notifier
	bucket   *blob.Bucket
	messages *message.Service
	limits   Limits
	quotas   quotas
	pool     *pool
	resuming resuming
	tracing  *observe.Tracing
	log      *zap.Logger
	due      *pg.Due
	unproven *pg.Due // files whose SHA-256 is to be found out
	previews *pg.Due
	maxPut   int64 // above it, an object is stored in parts
	givenUp  int   // most rows of a tenant that are kept because a request for them may still arrive
	fillTime time.Duration
}

// Config configures a Service.
type Config struct {
	DB       *pg.DB     // for calls
	System   *pg.System // for background work
	Notifier *pg.Notifier
	Bucket   *blob.Bucket // nil means that there is no storage: every call is refused
	Messages *message.Service
	Limits   Limits
	Tracing  *observe.Tracing // nil makes no spans
	Log      *zap.Logger
}

// What becomes of objects without rows.
const (
	report = "report"
	remove = "delete"
)

// Limits apply to tenants without quotas of their own; 0 means no limit. Package app reads them from the environment.
type Limits struct {
	MaxSize      int64         `env:"MAX_SIZE" envDefault:"10737418240" help:"most bytes of one file of a tenant that has no quota of its own; 0 is no limit"`
	MaxBytes     int64         `env:"MAX_BYTES" envDefault:"107374182400" help:"most bytes of all files of a tenant, likewise"`
	MaxCount     int64         `env:"MAX_COUNT" envDefault:"1000000" help:"most files of a tenant, likewise"`
	Stall        time.Duration `env:"STALL_TIMEOUT" envDefault:"60s" help:"most time in which no byte of an upload or a download goes through; as long as some do, they may take as long as they want"`
	ResumeWithin time.Duration `env:"RESUME_WITHIN" envDefault:"24h" help:"how long a resumable upload may wait for its next bytes before it is given up, at least 1m"`
	InspectQueue string        `env:"INSPECT_QUEUE" help:"queue whose consumers decide by InspectFile whether a new file may be used, for virus scanners and the like; empty is no inspection"`
	Orphans      string        `env:"ORPHANS" envDefault:"report" help:"what becomes of objects in the bucket that no file belongs to: report logs them, delete removes them, but for those that a restored database may have lost the rows of"`
	OrphanAge    time.Duration `env:"ORPHAN_AGE" envDefault:"24h" help:"age from which on an object without a file is an orphan, at least 1h"`
}

// Check requires limits that make sense.
func (l *Limits) Check(want func(ok bool, setting, format string, args ...any)) {
	want(l.MaxSize >= 0, "MAX_SIZE", "must not be negative")
	want(l.MaxBytes >= 0, "MAX_BYTES", "must not be negative")
	want(l.MaxCount >= 0, "MAX_COUNT", "must not be negative")
	want(l.Stall >= time.Second, "STALL_TIMEOUT", "must be at least 1s")
	want(l.ResumeWithin >= time.Minute, "RESUME_WITHIN", "must be at least 1m")
	want(l.Orphans == report || l.Orphans == remove, "ORPHANS", "is %q; it takes %s, %s", l.Orphans, report, remove)
	want(l.OrphanAge >= time.Hour, "ORPHAN_AGE", "must be at least 1h")
	if l.InspectQueue != "" {
		_, err := message.ParseQueueName(l.InspectQueue)
		want(err == nil, "INSPECT_QUEUE", "is no name of a queue: %v", err)
	}
}

// quotas are the quotas of this domain.
type quotas struct{ size, bytes, count *tenant.Quota }

func newQuotas(l Limits) quotas {
	return quotas{
		size:  tenant.NewQuota(tenant.QuotaConfig{Name: "max_file_size", What: "bytes in a file", Most: l.MaxSize, Uncounted: true}),
		bytes: tenant.NewQuota(tenant.QuotaConfig{Name: "file_bytes", What: "bytes of files", Most: l.MaxBytes}),
		count: tenant.NewQuota(tenant.QuotaConfig{Name: "file_count", What: "files", Most: l.MaxCount}),
	}
}

// Quotas returns the quotas of this domain, for tenant.Service.Register.
func (s *Service) Quotas() []*tenant.Quota {
	return []*tenant.Quota{s.quotas.size, s.quotas.bytes, s.quotas.count}
}

// New returns a Service. It must be called before the Run of the Notifier.
func New(c Config) *Service {
	s := &Service{
		db: c.DB, system: c.System, notifier: c.Notifier, bucket: c.Bucket, messages: c.Messages, limits: c.Limits,
		quotas: newQuotas(c.Limits), pool: newPool(poolBytes), resuming: resuming{uploads: map[*UploadState]bool{}}, log: c.Log, tracing: c.Tracing,
		maxPut: blob.MaxPut, givenUp: mostGivenUp, fillTime: fillTime,
	}
	s.due, s.unproven, s.previews = s.newDue(), s.newVerifying(), s.newPreviews()
	return s
}

// Work does what is due of files until ctx ends: it removes objects, ends uploads that nobody continues, deletes files that have
// expired, reads those whose SHA-256 the bucket has not checked, and makes previews. Several workers share it.
func (s *Service) Work(ctx context.Context) error {
	if s.bucket == nil {
		return nil
	}
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { defer observe.LogPanic(s.log); return s.due.Run(ctx) })
	work.Go(func() error { defer observe.LogPanic(s.log); return s.unproven.Run(ctx) })
	work.Go(func() error { defer observe.LogPanic(s.log); return s.previews.Run(ctx) })
	return work.Wait()
}

// Jobs are this domain's own.
func (s *Service) Jobs() []loop.Job {
	if s.bucket == nil {
		return nil
	}
	return []loop.Job{
		{Name: "file-orphans", About: "removes objects of the bucket that no file has", Interval: orphanInterval, Run: s.reapOrphans},
		{Name: "file-uploads", About: "removes what is left of resumable uploads that are over", Interval: sweepInterval, Run: s.sweepUploads},
	}
}

// ready returns an error if there is no storage for files.
func (s *Service) ready() error {
	if s.bucket == nil {
		return errs.New(errs.Unimplemented, "this service keeps no files: its operator has set no S3_BUCKET")
	}
	return nil
}

// wake notifies the workers, once tx is committed, that a row may be due.
func (s *Service) wake(tx *pg.Tx) {
	tx.AfterCommit(func() { s.notifier.Notify(channel, dueFiles) })
}
