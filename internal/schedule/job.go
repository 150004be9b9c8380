package schedule

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

// Job is code that schedules run by its name.
type Job struct {
	Name string
	// Check returns what is wrong with arguments, a JSON object. nil takes any.
	Check func(arguments json.RawMessage) error
	// Run does the work, for the tenant of its context, whose Attempt it may ask for. The context ends when the run is cancelled,
	// its attempt takes too long, its lease is lost or the process ends. It may be called again for a run whose worker died, also
	// while that still works at it: what must not happen twice belongs into a transaction with Fence. Whether an error is tried
	// again depends on errs.Retryable.
	Run func(ctx context.Context) error
}

// jobs are the jobs by name.
type jobs map[string]Job

func newJobs(list []Job) jobs {
	all := jobs{}
	for _, j := range list {
		all[j.Name] = j
	}
	return all
}

func (j jobs) names() []string { return slices.Sorted(maps.Keys(j)) }

// find returns a job. Errors: InvalidArgument.
func (j jobs) find(name string) (Job, error) {
	found, ok := j[name]
	if !ok {
		known := strings.Join(j.names(), ", ")
		if known == "" {
			known = "none"
		}
		return Job{}, errs.New(errs.InvalidArgument, "job.name: %.100q is not known; there are %s", name, known)
	}
	return found, nil
}

// Attempt is what a job knows of the run that it is called for.
type Attempt struct {
	RunID     string
	Schedule  Name
	Trigger   Trigger
	FireTime  time.Time
	Number    int             // from 1
	Arguments json.RawMessage // a JSON object; empty is none
	Token     int64           // the fencing token: later attempts of all runs have larger ones
}

type attemptKey struct{}

// AttemptOf returns the attempt that a job's context is for. It is the zero one outside of jobs.
func AttemptOf(ctx context.Context) Attempt {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a.Attempt
	}
	return Attempt{}
}

// Fence refuses the transaction of an attempt that has lost its run: one that was cancelled, whose lease ended, or whose schedule
// was deleted. Until tx ends, nobody else can take the run. Errors: Aborted, which is for good.
func Fence(ctx context.Context, tx *pg.Tx) error {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return errs.New(errs.FailedPrecondition, "fence: the context is not that of a job")
	}
	holds, err := holdsToken(context.WithoutCancel(ctx), tx, a.RunID, a.Token)
	if err != nil {
		return err
	}
	if !holds {
		return errs.Permanent(errs.New(errs.Aborted, "the run %s is not this worker's any longer", a.RunID))
	}
	return nil
}

// Bounds of a run's log.
const (
	maxLogLines = 1000
	maxLogBytes = 64 << 10
)

// Log returns a logger whose lines of info and above are kept with the run of a job's context, and go to the log of the service as
// well. Only the message and the fields of a line are kept. Outside of jobs it drops everything.
func Log(ctx context.Context) *zap.Logger {
	if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
		return a.log
	}
	return zap.NewNop()
}

// runLog keeps the first lines that a job writes. It is a zapcore.Core.
type runLog struct {
	zapcore.LevelEnabler
	encoder zapcore.Encoder
	kept    *keptLines
}

type keptLines struct {
	mu    sync.Mutex
	lines []LogLine
	bytes int
	cut   bool
}

func newRunLog() *runLog {
	// A line is its message and, where it has fields, these as JSON behind it.
	return &runLog{LevelEnabler: zapcore.InfoLevel, encoder: zapcore.NewJSONEncoder(zapcore.EncoderConfig{SkipLineEnding: true}), kept: &keptLines{}}
}

// With returns a core that adds fields to each line.
func (l *runLog) With(fields []zapcore.Field) zapcore.Core {
	encoder := l.encoder.Clone()
	for _, f := range fields {
		f.AddTo(encoder)
	}
	return &runLog{l.LevelEnabler, encoder, l.kept}
}

// Check adds the core to those that write the entry.
func (l *runLog) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(e.Level) {
		return to.AddCore(e, l)
	}
	return to
}

// Write keeps a line, unless there are too many.
func (l *runLog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	encoded, err := l.encoder.EncodeEntry(zapcore.Entry{}, fields)
	if err != nil {
		return err
	}
	defer encoded.Free()
	text := e.Message
	if more := encoded.String(); more != "{}" {
		text += " " + more
	}
	l.kept.add(LogLine{Time: e.Time.UTC(), Level: e.Level.String(), Message: pg.Text(text)})
	return nil
}

// Sync has nothing to do.
func (l *runLog) Sync() error { return nil }

func (k *keptLines) add(line LogLine) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.lines) == maxLogLines || k.bytes+len(line.Message) > maxLogBytes {
		k.cut = true
		return
	}
	k.lines, k.bytes = append(k.lines, line), k.bytes+len(line.Message)
}

func (k *keptLines) taken() (lines []LogLine, cut bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.lines), k.cut
}

// call runs a job. A panic is an error.
func (j Job) call(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return j.Run(ctx)
}
