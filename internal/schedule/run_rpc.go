package schedule

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	schedulev1 "plinth/api/plinth/schedule/v1"
	"plinth/internal/cron"
	"plinth/internal/rpc"
)

func (r *RPC) Trigger(ctx context.Context, req *schedulev1.TriggerRequest) (*schedulev1.Run, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	arguments, err := structFromProto(req.GetArguments())
	if err != nil {
		return nil, err
	}
	run, err := r.service.Trigger(ctx, name, Triggered{Arguments: arguments, Overlap: overlaps[req.GetOverlapPolicy()], Key: req.GetIdempotencyKey()})
	return runToProto(run), err
}

func (r *RPC) ListRuns(ctx context.Context, req *schedulev1.ListRunsRequest) (*schedulev1.ListRunsResponse, error) {
	name, err := ParseName(req.GetSchedule())
	if err != nil {
		return nil, err
	}
	match := RunFilter{Trigger: triggers[req.GetTrigger()], BackfillID: req.GetBackfillId()}
	for _, state := range req.GetStates() {
		match.States = append(match.States, states[state])
	}
	if match.Start, err = rpc.TimeFromProto("start_time", req.GetStartTime()); err != nil {
		return nil, err
	}
	if match.End, err = rpc.TimeFromProto("end_time", req.GetEndTime()); err != nil {
		return nil, err
	}
	runs, next, err := r.service.ListRuns(ctx, name, match, int(req.GetPageSize()), req.GetPageToken())
	return &schedulev1.ListRunsResponse{Runs: rpc.SliceToProto(runs, runToProto), NextPageToken: next}, err
}

func (r *RPC) GetRun(ctx context.Context, req *schedulev1.GetRunRequest) (*schedulev1.Run, error) {
	name, err := ParseName(req.GetSchedule())
	if err != nil {
		return nil, err
	}
	run, err := r.service.GetRun(ctx, name, req.GetId())
	return runToProto(run), err
}

func (r *RPC) CancelRun(ctx context.Context, req *schedulev1.CancelRunRequest) (*schedulev1.Run, error) {
	name, err := ParseName(req.GetSchedule())
	if err != nil {
		return nil, err
	}
	run, err := r.service.CancelRun(ctx, name, req.GetId())
	return runToProto(run), err
}

func (r *RPC) RetryRun(ctx context.Context, req *schedulev1.RetryRunRequest) (*schedulev1.Run, error) {
	name, err := ParseName(req.GetSchedule())
	if err != nil {
		return nil, err
	}
	run, err := r.service.RetryRun(ctx, name, req.GetId())
	return runToProto(run), err
}

func (r *RPC) ListUpcoming(ctx context.Context, req *schedulev1.ListUpcomingRequest) (*schedulev1.ListUpcomingResponse, error) {
	end, err := rpc.TimeFromProto("end_time", req.GetEndTime())
	if err != nil {
		return nil, err
	}
	found, err := r.service.ListUpcoming(ctx, int(req.GetPageSize()), end)
	return &schedulev1.ListUpcomingResponse{Upcoming: rpc.SliceToProto(found, func(u Upcoming) *schedulev1.UpcomingRun {
		return &schedulev1.UpcomingRun{
			Schedule: u.Schedule.name, FireTime: timestamppb.New(u.Time), DueTime: timestamppb.New(u.Due), Kind: fireKinds[u.Kind],
		}
	})}, err
}

// The numbers of enums, and the words for them.
var (
	triggers = map[schedulev1.RunTrigger]Trigger{
		schedulev1.RunTrigger_RUN_TRIGGER_SCHEDULE: FromSchedule, schedulev1.RunTrigger_RUN_TRIGGER_CATCH_UP: FromCatchUp,
		schedulev1.RunTrigger_RUN_TRIGGER_MANUAL: FromTrigger, schedulev1.RunTrigger_RUN_TRIGGER_BACKFILL: FromBackfill,
	}
	states = map[schedulev1.RunState]State{
		schedulev1.RunState_RUN_STATE_CLAIMED: Claimed, schedulev1.RunState_RUN_STATE_RUNNING: Running,
		schedulev1.RunState_RUN_STATE_SUCCEEDED: Succeeded, schedulev1.RunState_RUN_STATE_FAILED: Failed,
		schedulev1.RunState_RUN_STATE_SKIPPED: Skipped, schedulev1.RunState_RUN_STATE_CANCELLED: Cancelled,
		schedulev1.RunState_RUN_STATE_MISSED: Missed,
	}
	fireKinds = map[cron.Kind]schedulev1.FireTimeKind{
		cron.Normal: schedulev1.FireTimeKind_FIRE_TIME_KIND_NORMAL, cron.Shifted: schedulev1.FireTimeKind_FIRE_TIME_KIND_SHIFTED,
		cron.FirstPass: schedulev1.FireTimeKind_FIRE_TIME_KIND_FIRST_PASS, cron.SecondPass: schedulev1.FireTimeKind_FIRE_TIME_KIND_SECOND_PASS,
	}
)

func runToProto(r Run) *schedulev1.Run {
	res := &schedulev1.Run{
		Id: r.ID, Schedule: r.Schedule.name, Trigger: number(triggers, r.Trigger), FireTime: rpc.TimeToProto(r.FireAt),
		DueTime: rpc.TimeToProto(r.DueAt), State: number(states, r.State), Attempt: int32(r.Attempt), ScheduleVersion: r.Version,
		Arguments: structToProto(r.Arguments), SkipReason: r.SkipReason, MissedCount: r.MissedCount, MissedUntil: rpc.TimeToProto(r.MissedUntil),
		MessageId: r.MessageID, Worker: r.Worker, StartTime: rpc.TimeToProto(r.StartedAt), EndTime: rpc.TimeToProto(r.EndedAt),
		Error: r.Error, LogTruncated: r.LogCut, BackfillId: r.BackfillID,
		Log: rpc.SliceToProto(r.Log, func(l LogLine) *schedulev1.LogLine {
			return &schedulev1.LogLine{Time: timestamppb.New(l.Time), Level: l.Level, Message: l.Message}
		}),
	}
	if r.HTTP != nil {
		res.Http = &schedulev1.HttpAnswer{StatusCode: int32(r.HTTP.Status), Body: r.HTTP.Body}
	}
	if r.State == Claimed {
		res.NextAttemptTime = rpc.TimeToProto(r.NextAt)
	}
	return res
}

func (r *RPC) Preview(ctx context.Context, req *schedulev1.PreviewRequest) (*schedulev1.PreviewResponse, error) {
	t, err := timingFromProto(req)
	if err != nil {
		return nil, err
	}
	after, err := rpc.TimeFromProto("after", req.GetAfter())
	if err != nil {
		return nil, err
	}
	language := cron.English
	if req.GetLanguage() == "zh" {
		language = cron.Chinese
	}
	p, err := r.service.Preview(ctx, t, Asked{Name: req.GetName(), After: after, Count: int(req.GetCount()), Language: language})
	return &schedulev1.PreviewResponse{
		Warnings: p.Warnings, Description: p.Description,
		Skipped: rpc.SliceToProto(p.Skipped, func(s cron.Skip) *schedulev1.SkippedTime {
			return &schedulev1.SkippedTime{LocalTime: s.Local, Reason: s.Reason.String()}
		}),
		FireTimes: rpc.SliceToProto(p.Fires, func(f Fire) *schedulev1.PreviewedFireTime {
			return &schedulev1.PreviewedFireTime{FireTime: timestamppb.New(f.Time), DueTime: timestamppb.New(f.Due), Kind: fireKinds[f.Kind]}
		}),
	}, err
}
