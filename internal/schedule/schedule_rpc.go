package schedule

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	schedulev1 "plinth/api/plinth/schedule/v1"
	"plinth/internal/resource"
	"plinth/internal/rpc"
)

func (r *RPC) Create(ctx context.Context, req *schedulev1.CreateRequest) (*schedulev1.Schedule, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	d, err := definitionFromProto(req)
	if err != nil {
		return nil, err
	}
	s, err := r.service.Create(ctx, name, d)
	return scheduleToProto(s), err
}

func (r *RPC) Get(ctx context.Context, req *schedulev1.GetRequest) (*schedulev1.Schedule, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	s, err := r.service.Get(ctx, name)
	return scheduleToProto(s), err
}

func (r *RPC) List(ctx context.Context, req *schedulev1.ListRequest) (*schedulev1.ListResponse, error) {
	schedules, next, err := r.service.List(ctx, int(req.GetPageSize()), req.GetPageToken())
	return &schedulev1.ListResponse{Schedules: rpc.SliceToProto(schedules, scheduleToProto), NextPageToken: next}, err
}

func (r *RPC) Update(ctx context.Context, req *schedulev1.UpdateRequest) (*schedulev1.Schedule, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	edit, err := editFromProto(req)
	if err != nil {
		return nil, err
	}
	s, err := r.service.Update(ctx, name, req.GetVersion(), edit)
	return scheduleToProto(s), err
}

func (r *RPC) Delete(ctx context.Context, req *schedulev1.DeleteRequest) (*schedulev1.DeleteResponse, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	return &schedulev1.DeleteResponse{}, r.service.Delete(ctx, name)
}

func (r *RPC) Pause(ctx context.Context, req *schedulev1.PauseRequest) (*schedulev1.Schedule, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	s, err := r.service.Pause(ctx, name, req.GetNote())
	return scheduleToProto(s), err
}

func (r *RPC) Resume(ctx context.Context, req *schedulev1.ResumeRequest) (*schedulev1.Schedule, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	s, err := r.service.Resume(ctx, name, req.GetNote())
	return scheduleToProto(s), err
}

func (r *RPC) ListScheduleChanges(ctx context.Context, req *schedulev1.ListScheduleChangesRequest) (*schedulev1.ListScheduleChangesResponse, error) {
	name, err := ParseName(req.GetSchedule())
	if err != nil {
		return nil, err
	}
	changes, next, err := r.service.ListScheduleChanges(ctx, name, int(req.GetPageSize()), req.GetPageToken())
	return &schedulev1.ListScheduleChangesResponse{Changes: rpc.SliceToProto(changes, changeToProto), NextPageToken: next}, err
}

// editFromProto returns the change of a definition that a request asks for. A path of a oneof's member stands for the oneof.
func editFromProto(req *schedulev1.UpdateRequest) (func(*Definition), error) {
	wanted, err := definitionFromProto(req)
	if err != nil {
		return nil, err
	}
	timing := resource.Field[Definition]{Set: req.GetTiming() != nil, Copy: func(d *Definition) {
		d.Cron, d.Interval, d.At = wanted.Cron, wanted.Interval, wanted.At
	}}
	action := resource.Field[Definition]{Set: req.GetAction() != nil, Copy: func(d *Definition) { d.Action = wanted.Action }}
	return resource.Change("schedule", req.GetUpdateMask().GetPaths(), map[string]resource.Field[Definition]{
		"cron": timing, "interval": timing, "at": timing, "publish": action, "http": action, "job": action,
		"description":          {Set: req.GetDescription() != "", Copy: func(d *Definition) { d.Description = wanted.Description }},
		"time_zone":            {Set: req.GetTimeZone() != "", Copy: func(d *Definition) { d.TimeZone = wanted.TimeZone }},
		"dst_policy":           {Set: req.DstPolicy != nil, Copy: func(d *Definition) { d.DST = wanted.DST }},
		"jitter":               {Set: req.Jitter != nil, Copy: func(d *Definition) { d.Jitter = wanted.Jitter }},
		"start_time":           {Set: req.StartTime != nil, Copy: func(d *Definition) { d.StartTime = wanted.StartTime }},
		"end_time":             {Set: req.EndTime != nil, Copy: func(d *Definition) { d.EndTime = wanted.EndTime }},
		"remaining_runs":       {Set: req.RemainingRuns != nil, Copy: func(d *Definition) { d.RemainingRuns = wanted.RemainingRuns }},
		"overlap_policy":       {Set: req.GetOverlapPolicy() != 0, Copy: func(d *Definition) { d.Overlap = wanted.Overlap }},
		"max_buffered":         {Set: req.GetMaxBuffered() != 0, Copy: func(d *Definition) { d.MaxBuffered = wanted.MaxBuffered }},
		"catch_up":             {Set: req.GetCatchUp() != 0, Copy: func(d *Definition) { d.CatchUp = wanted.CatchUp }},
		"catch_up_window":      {Set: req.CatchUpWindow != nil, Copy: func(d *Definition) { d.CatchUpWindow = wanted.CatchUpWindow }},
		"retry":                {Set: req.Retry != nil, Copy: func(d *Definition) { d.Retry = wanted.Retry }},
		"attempt_timeout":      {Set: req.AttemptTimeout != nil, Copy: func(d *Definition) { d.AttemptTimeout = wanted.AttemptTimeout }},
		"on_worker_loss":       {Set: req.GetOnWorkerLoss() != 0, Copy: func(d *Definition) { d.OnWorkerLoss = wanted.OnWorkerLoss }},
		"pause_after_failures": {Set: req.GetPauseAfterFailures() != 0, Copy: func(d *Definition) { d.PauseAfterFailures = wanted.PauseAfterFailures }},
		"alert":                {Set: req.Alert != nil, Copy: func(d *Definition) { d.Alert = wanted.Alert }},
		"run_retention":        {Set: req.RunRetention != nil, Copy: func(d *Definition) { d.RunRetention = wanted.RunRetention }},
	})
}

func scheduleToProto(s Schedule) *schedulev1.Schedule {
	res := definitionToProto(s.Definition)
	res.BuiltIn = s.Name.builtIn()
	res.Name, res.Version, res.Error, res.UpdatedBy, res.RemainingRuns = s.Name.name, s.Version, s.Error, s.UpdatedBy, s.Remaining
	res.CreateTime, res.UpdateTime = rpc.TimeToProto(s.CreatedAt), rpc.TimeToProto(s.UpdatedAt)
	res.NextFireTimes = rpc.SliceToProto(s.Next, timestamppb.New)
	res.RunningRuns = rpc.SliceToProto(s.Running, runToProto)
	if p := s.Pause; p != nil {
		res.Pause = &schedulev1.Pause{Note: p.Note, By: p.By, Time: timestamppb.New(p.At)}
	}
	if n := s.Stats; n != nil {
		res.Stats = &schedulev1.Stats{Fired: n.Fired, Skipped: n.Skipped, Missed: n.Missed, Dropped: n.Dropped, Failed: n.Failed, Buffered: n.Buffered}
	}
	return res
}

// changeKinds are the numbers of the kinds of changes.
var changeKinds = map[ChangeKind]schedulev1.ScheduleChangeKind{
	Created: schedulev1.ScheduleChangeKind_SCHEDULE_CHANGE_KIND_CREATE, Updated: schedulev1.ScheduleChangeKind_SCHEDULE_CHANGE_KIND_UPDATE,
	Paused: schedulev1.ScheduleChangeKind_SCHEDULE_CHANGE_KIND_PAUSE, Resumed: schedulev1.ScheduleChangeKind_SCHEDULE_CHANGE_KIND_RESUME,
	Deleted: schedulev1.ScheduleChangeKind_SCHEDULE_CHANGE_KIND_DELETE,
}

func changeToProto(c Change) *schedulev1.ScheduleChange {
	res := &schedulev1.ScheduleChange{
		Id: c.ID, Schedule: c.Schedule.name, Kind: changeKinds[c.Kind], By: c.By, Time: timestamppb.New(c.At), Note: c.Note,
		Version: c.Version, Fields: c.Fields,
	}
	if c.After != nil {
		res.After = definitionToProto(*c.After)
		res.After.Name, res.After.Version, res.After.RemainingRuns = c.Schedule.name, c.Version, c.After.RemainingRuns
	}
	return res
}
