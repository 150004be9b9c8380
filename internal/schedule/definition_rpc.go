package schedule

import (
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	schedulev1 "plinth/api/plinth/schedule/v1"
	"plinth/internal/cron"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// timingRequest has the fields of a timing, which Create, Update and Preview share.
type timingRequest interface {
	GetCron() string
	GetInterval() *durationpb.Duration
	GetAt() *timestamppb.Timestamp
	GetTimeZone() string
	GetDstPolicy() *schedulev1.DstPolicy
	GetJitter() *durationpb.Duration
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
}

// definitionRequest has the fields of a definition, which Create and Update share.
type definitionRequest interface {
	timingRequest
	GetDescription() string
	GetRemainingRuns() int64
	GetOverlapPolicy() schedulev1.OverlapPolicy
	GetMaxBuffered() int32
	GetCatchUp() schedulev1.CatchUp
	GetCatchUpWindow() *durationpb.Duration
	GetRetry() *schedulev1.Retry
	GetAttemptTimeout() *durationpb.Duration
	GetOnWorkerLoss() schedulev1.OnWorkerLoss
	GetPauseAfterFailures() int32
	GetAlert() *schedulev1.Alert
	GetRunRetention() *schedulev1.RunRetention
	GetPublish() *messagev1.PublishRequest
	GetHttp() *schedulev1.HttpAction
	GetJob() *schedulev1.JobAction
}

// The words that definitions have for the numbers of enums.
var (
	overlaps = map[schedulev1.OverlapPolicy]Overlap{
		schedulev1.OverlapPolicy_OVERLAP_POLICY_SKIP: Skip, schedulev1.OverlapPolicy_OVERLAP_POLICY_BUFFER_ONE: BufferOne,
		schedulev1.OverlapPolicy_OVERLAP_POLICY_BUFFER_ALL: BufferAll, schedulev1.OverlapPolicy_OVERLAP_POLICY_CANCEL_OTHER: CancelOther,
		schedulev1.OverlapPolicy_OVERLAP_POLICY_ALLOW: Allow,
	}
	catchUps = map[schedulev1.CatchUp]CatchUp{
		schedulev1.CatchUp_CATCH_UP_NONE: CatchUpNone, schedulev1.CatchUp_CATCH_UP_LATEST: CatchUpLatest, schedulev1.CatchUp_CATCH_UP_ALL: CatchUpAll,
	}
	workerLosses = map[schedulev1.OnWorkerLoss]WorkerLoss{
		schedulev1.OnWorkerLoss_ON_WORKER_LOSS_RETRY: LossRetry, schedulev1.OnWorkerLoss_ON_WORKER_LOSS_FAIL: LossFail,
	}
	gaps = map[schedulev1.DstGap]cron.Gap{
		schedulev1.DstGap_DST_GAP_SKIP: cron.GapSkip, schedulev1.DstGap_DST_GAP_SHIFT: cron.GapShift,
	}
	passes = map[schedulev1.DstOverlap]cron.Overlap{
		schedulev1.DstOverlap_DST_OVERLAP_ONCE: cron.OverlapOnce, schedulev1.DstOverlap_DST_OVERLAP_TWICE: cron.OverlapTwice,
	}
)

// number returns the number of a word, 0 if there is none.
func number[N, W comparable](words map[N]W, word W) (none N) {
	for n, w := range words {
		if w == word {
			return n
		}
	}
	return none
}

func timingFromProto(req timingRequest) (t Timing, err error) {
	t = Timing{
		Cron: req.GetCron(), Interval: req.GetInterval().AsDuration(), TimeZone: req.GetTimeZone(), Jitter: req.GetJitter().AsDuration(),
		DST: cron.Policy{Gap: gaps[req.GetDstPolicy().GetGap()], Overlap: passes[req.GetDstPolicy().GetOverlap()]},
	}
	if t.At, err = rpc.TimeFromProto("at", req.GetAt()); err != nil {
		return t, err
	}
	if t.StartTime, err = rpc.TimeFromProto("start_time", req.GetStartTime()); err != nil {
		return t, err
	}
	t.EndTime, err = rpc.TimeFromProto("end_time", req.GetEndTime())
	return t, err
}

func definitionFromProto(req definitionRequest) (d Definition, err error) {
	timing, err := timingFromProto(req)
	if err != nil {
		return d, err
	}
	d = Definition{
		Description: req.GetDescription(), Timing: timing, Overlap: overlaps[req.GetOverlapPolicy()], MaxBuffered: int(req.GetMaxBuffered()),
		CatchUp: catchUps[req.GetCatchUp()], CatchUpWindow: req.GetCatchUpWindow().AsDuration(),
		Retry: Retry{
			MaxAttempts: int(req.GetRetry().GetMaxAttempts()), MinBackoff: req.GetRetry().GetMinBackoff().AsDuration(),
			MaxBackoff: req.GetRetry().GetMaxBackoff().AsDuration(),
		},
		AttemptTimeout: req.GetAttemptTimeout().AsDuration(), OnWorkerLoss: workerLosses[req.GetOnWorkerLoss()],
		PauseAfterFailures: int(req.GetPauseAfterFailures()),
		Alert: Alert{
			Topic: req.GetAlert().GetTopic(), LateAfter: req.GetAlert().GetLateAfter().AsDuration(),
			NoSuccessFor: req.GetAlert().GetNoSuccessFor().AsDuration(),
		},
		RunRetention: RunRetention{MaxAge: req.GetRunRetention().GetMaxAge().AsDuration(), MaxCount: int(req.GetRunRetention().GetMaxCount())},
	}
	if n := req.GetRemainingRuns(); n > 0 {
		d.RemainingRuns = &n
	}
	d.Action, err = actionFromProto(req)
	return d, err
}

func actionFromProto(req definitionRequest) (a Action, err error) {
	if p := req.GetPublish(); p != nil {
		a.Publish, err = publishFromProto(p)
	}
	if h := req.GetHttp(); h != nil {
		a.HTTP = &HTTP{
			URL: h.GetUrl(), Method: h.GetMethod(), Headers: h.GetHeaders(), Body: h.GetBody(), Secret: h.GetSigningSecret(),
		}
		for _, code := range h.GetSuccessCodes() {
			a.HTTP.Success = append(a.HTTP.Success, int(code))
		}
	}
	if j := req.GetJob(); j != nil {
		a.Job = &JobRequest{Name: j.GetName()}
		a.Job.Arguments, err = structFromProto(j.GetArguments())
	}
	return a, err
}

func publishFromProto(p *messagev1.PublishRequest) (*Publish, error) {
	switch {
	case p.GetIdempotencyKey() != "":
		return nil, errs.New(errs.InvalidArgument, "publish.idempotency_key: a run publishes its message once by itself; leave it out")
	case p.GetDeliverTime() != nil:
		return nil, errs.New(errs.InvalidArgument, "publish.deliver_time: a run's message goes out when the run is due; leave it out, or set delay")
	}
	a := &Publish{
		Queue: p.GetQueue(), Topic: p.GetTopic(), RoutingKey: p.GetRoutingKey(), Attributes: p.GetAttributes(), Delay: p.GetDelay().AsDuration(),
	}
	if data, ok := p.GetPayload().(*messagev1.PublishRequest_Data); ok {
		a.Data = append([]byte{}, data.Data...) // Never nil.
	} else {
		a.Text = p.GetMessage()
	}
	return a, nil
}

// definitionToProto leaves out what a schedule has beside its definition, and secrets.
func definitionToProto(d Definition) *schedulev1.Schedule {
	res := &schedulev1.Schedule{
		Description: d.Description, TimeZone: d.TimeZone, Jitter: durationToProto(d.Jitter),
		StartTime: rpc.TimeToProto(d.StartTime), EndTime: rpc.TimeToProto(d.EndTime),
		OverlapPolicy: number(overlaps, d.Overlap), MaxBuffered: int32(d.MaxBuffered), CatchUp: number(catchUps, d.CatchUp),
		CatchUpWindow: durationToProto(d.CatchUpWindow), AttemptTimeout: durationToProto(d.AttemptTimeout),
		Retry: &schedulev1.Retry{
			MaxAttempts: int32(d.Retry.MaxAttempts), MinBackoff: durationToProto(d.Retry.MinBackoff), MaxBackoff: durationToProto(d.Retry.MaxBackoff),
		},
		OnWorkerLoss: number(workerLosses, d.OnWorkerLoss), PauseAfterFailures: int32(d.PauseAfterFailures),
		RunRetention: &schedulev1.RunRetention{MaxAge: durationToProto(d.RunRetention.MaxAge), MaxCount: int32(d.RunRetention.MaxCount)},
	}
	switch {
	case d.Cron != "":
		res.Timing = &schedulev1.Schedule_Cron{Cron: d.Cron}
	case d.Interval != 0:
		res.Timing = &schedulev1.Schedule_Interval{Interval: durationpb.New(d.Interval)}
	case !d.At.IsZero():
		res.Timing = &schedulev1.Schedule_At{At: timestamppb.New(d.At)}
	}
	if d.DST != (cron.Policy{}) {
		res.DstPolicy = &schedulev1.DstPolicy{Gap: number(gaps, d.DST.Gap), Overlap: number(passes, d.DST.Overlap)}
	}
	if a := d.Alert; a.Topic != "" {
		res.Alert = &schedulev1.Alert{Topic: a.Topic, LateAfter: durationToProto(a.LateAfter), NoSuccessFor: durationToProto(a.NoSuccessFor)}
	}
	setAction(res, d.Action)
	return res
}

func setAction(res *schedulev1.Schedule, a Action) {
	switch {
	case a.Publish != nil:
		p := &messagev1.PublishRequest{
			Queue: a.Publish.Queue, Topic: a.Publish.Topic, RoutingKey: a.Publish.RoutingKey, Attributes: a.Publish.Attributes,
			Payload: &messagev1.PublishRequest_Message{Message: a.Publish.Text},
		}
		if a.Publish.Data != nil {
			p.Payload = &messagev1.PublishRequest_Data{Data: a.Publish.Data}
		}
		if a.Publish.Delay != 0 {
			p.When = &messagev1.PublishRequest_Delay{Delay: durationpb.New(a.Publish.Delay)}
		}
		res.Action = &schedulev1.Schedule_Publish{Publish: p}
	case a.HTTP != nil:
		h := &schedulev1.HttpAction{Url: a.HTTP.URL, Method: strings.ToUpper(a.HTTP.Method), Body: a.HTTP.Body}
		for name := range a.HTTP.Headers {
			if h.Headers == nil {
				h.Headers = map[string]string{}
			}
			h.Headers[name] = redacted
		}
		for _, code := range a.HTTP.Success {
			h.SuccessCodes = append(h.SuccessCodes, int32(code))
		}
		res.Action = &schedulev1.Schedule_Http{Http: h}
	case a.Job != nil:
		res.Action = &schedulev1.Schedule_Job{Job: &schedulev1.JobAction{Name: a.Job.Name, Arguments: structToProto(a.Job.Arguments)}}
	}
}
