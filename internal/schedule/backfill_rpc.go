package schedule

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	schedulev1 "plinth/api/plinth/schedule/v1"
	"plinth/internal/rpc"
)

func (r *RPC) Backfill(ctx context.Context, req *schedulev1.BackfillRequest) (*schedulev1.BackfillResponse, error) {
	name, err := ParseName(req.GetName())
	if err != nil {
		return nil, err
	}
	ask := BackfillRequest{
		Overlap: overlaps[req.GetOverlapPolicy()], MaxConcurrent: int(req.GetMaxConcurrent()), DryRun: req.GetDryRun(), Token: req.GetToken(),
	}
	if ask.Start, err = rpc.TimeFromProto("start_time", req.GetStartTime()); err != nil {
		return nil, err
	}
	if ask.End, err = rpc.TimeFromProto("end_time", req.GetEndTime()); err != nil {
		return nil, err
	}
	done, err := r.service.Backfill(ctx, name, ask)
	return &schedulev1.BackfillResponse{
		BackfillId: done.ID, Count: int32(len(done.Fires)), Token: done.Token,
		FireTimes: rpc.SliceToProto(done.Fires, func(f Fire) *timestamppb.Timestamp { return timestamppb.New(f.Time) }),
	}, err
}

func (r *RPC) GetBackfill(ctx context.Context, req *schedulev1.GetBackfillRequest) (*schedulev1.Backfill, error) {
	name, err := ParseName(req.GetSchedule())
	if err != nil {
		return nil, err
	}
	b, err := r.service.GetBackfill(ctx, name, req.GetId())
	return backfillToProto(b), err
}

func (r *RPC) CancelBackfill(ctx context.Context, req *schedulev1.CancelBackfillRequest) (*schedulev1.Backfill, error) {
	name, err := ParseName(req.GetSchedule())
	if err != nil {
		return nil, err
	}
	b, err := r.service.CancelBackfill(ctx, name, req.GetId())
	return backfillToProto(b), err
}

func backfillToProto(b Backfill) *schedulev1.Backfill {
	return &schedulev1.Backfill{
		Id: b.ID, Schedule: b.Schedule.name, ScheduleVersion: b.Version, StartTime: rpc.TimeToProto(b.Start), EndTime: rpc.TimeToProto(b.End),
		OverlapPolicy: number(overlaps, b.Overlap), MaxConcurrent: int32(b.MaxConcurrent), Count: int32(b.Runs), Queued: int32(b.Queued),
		Active: int32(b.Active), By: b.By, CreateTime: rpc.TimeToProto(b.CreatedAt), CancelledBy: b.CancelledBy, CompleteTime: rpc.TimeToProto(b.EndedAt),
	}
}
