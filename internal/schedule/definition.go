package schedule

import (
	"cmp"
	"encoding/json"
	"net/http"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

// maxDefinition is the most bytes that a definition may have as JSON, so that a batch of them fits in memory.
const maxDefinition = 96 << 10

// Overlap is what happens at a fire time while a run of the schedule is not over.
type Overlap string

// Values of Overlap.
const (
	Skip        Overlap = "skip"
	BufferOne   Overlap = "buffer_one"
	BufferAll   Overlap = "buffer_all"
	CancelOther Overlap = "cancel_other"
	Allow       Overlap = "allow"
)

// CatchUp is what happens after fire times passed without a worker.
type CatchUp string

// Values of CatchUp.
const (
	CatchUpNone   CatchUp = "none"
	CatchUpLatest CatchUp = "latest"
	CatchUpAll    CatchUp = "all"
)

// WorkerLoss is what happens to a run whose worker died.
type WorkerLoss string

// Values of WorkerLoss.
const (
	LossRetry WorkerLoss = "retry"
	LossFail  WorkerLoss = "fail"
)

// Retry is how failed attempts are repeated.
type Retry struct {
	MaxAttempts int           `json:"max_attempts,omitempty"`
	MinBackoff  time.Duration `json:"min_backoff,omitempty"`
	MaxBackoff  time.Duration `json:"max_backoff,omitempty"`
}

// Alert publishes events about a schedule that is not doing well.
type Alert struct {
	Topic        string        `json:"topic,omitempty"`
	LateAfter    time.Duration `json:"late_after,omitempty"`     // 0 is never
	NoSuccessFor time.Duration `json:"no_success_for,omitempty"` // likewise
}

// RunRetention is how long ended runs are kept.
type RunRetention struct {
	MaxAge   time.Duration `json:"max_age,omitempty"`
	MaxCount int           `json:"max_count,omitempty"`
}

// Definition is what can be set of a schedule.
type Definition struct {
	Description string `json:"description,omitempty"`
	Timing
	RemainingRuns      *int64        `json:"remaining_runs,omitempty"` // as it was set; what is left of it is the schedule's
	Overlap            Overlap       `json:"overlap_policy,omitempty"`
	MaxBuffered        int           `json:"max_buffered,omitempty"`
	CatchUp            CatchUp       `json:"catch_up,omitempty"`
	CatchUpWindow      time.Duration `json:"catch_up_window,omitempty"`
	Retry              Retry         `json:"retry,omitzero"`
	AttemptTimeout     time.Duration `json:"attempt_timeout,omitempty"`
	OnWorkerLoss       WorkerLoss    `json:"on_worker_loss,omitempty"`
	PauseAfterFailures int           `json:"pause_after_failures,omitempty"`
	Alert              Alert         `json:"alert,omitzero"`
	RunRetention       RunRetention  `json:"run_retention,omitzero"`
	Action             Action        `json:"action"`
}

// complete returns d with the defaults in place of fields that are zero.
func (d Definition) complete() Definition {
	d.Timing = d.Timing.normal()
	if d.Action.HTTP != nil {
		d.Action = d.Action.clone()
		d.Action.HTTP.Method = cmp.Or(d.Action.HTTP.Method, http.MethodPost)
	}
	d.Overlap = cmp.Or(d.Overlap, Skip)
	d.MaxBuffered = cmp.Or(d.MaxBuffered, 100)
	d.CatchUp = cmp.Or(d.CatchUp, CatchUpLatest)
	d.CatchUpWindow = cmp.Or(d.CatchUpWindow, 365*24*time.Hour)
	d.Retry.MaxAttempts = cmp.Or(d.Retry.MaxAttempts, 1)
	d.Retry.MinBackoff = cmp.Or(d.Retry.MinBackoff, time.Second)
	d.Retry.MaxBackoff = cmp.Or(d.Retry.MaxBackoff, max(10*time.Minute, d.Retry.MinBackoff))
	d.AttemptTimeout = cmp.Or(d.AttemptTimeout, d.Action.timeout())
	d.OnWorkerLoss = cmp.Or(d.OnWorkerLoss, LossRetry)
	d.RunRetention.MaxAge = cmp.Or(d.RunRetention.MaxAge, 30*24*time.Hour)
	d.RunRetention.MaxCount = cmp.Or(d.RunRetention.MaxCount, 1000)
	return d
}

// check validates what depends on several fields or on the service, and returns the clock of the schedule. Errors: InvalidArgument.
func (s *Service) check(d Definition, made time.Time, tenant string, name Name) (clock, error) {
	if d.Retry.MaxBackoff < d.Retry.MinBackoff {
		return clock{}, errs.New(errs.InvalidArgument, "retry.max_backoff: %v is less than min_backoff, which is %v", d.Retry.MaxBackoff, d.Retry.MinBackoff)
	}
	if a := d.Alert; a.Topic == "" && a != (Alert{}) {
		return clock{}, errs.New(errs.InvalidArgument, "alert.topic: it is needed for the events")
	} else if _, err := message.ToTopic(a.Topic, ""); a.Topic != "" && err != nil {
		return clock{}, errs.New(errs.InvalidArgument, "alert.%s", publicError(err))
	}
	if err := d.Action.check(s); err != nil {
		return clock{}, err
	}
	if encoded, err := json.Marshal(d); err != nil || len(encoded) > maxDefinition {
		return clock{}, errs.New(errs.InvalidArgument, "%s: with it the schedule has %d bytes; at most %d are allowed", d.Action.kind(), len(encoded), maxDefinition)
	}
	return newClock(&s.zones, d.Timing, made, tenant, name.name)
}
