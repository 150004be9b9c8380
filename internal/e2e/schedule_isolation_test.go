package e2e

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagev1 "plinth/api/plinth/message/v1"
	schedulev1 "plinth/api/plinth/schedule/v1"
)

func (p party) schedules() schedulev1.ScheduleServiceClient {
	return schedulev1.NewScheduleServiceClient(p.http, p.url, p.options...)
}

// yearly is a schedule that does not fire while a test runs.
func yearly(name string) *schedulev1.CreateRequest {
	return &schedulev1.CreateRequest{
		Name: name, Description: "hidden", Timing: &schedulev1.CreateRequest_Interval{Interval: durationpb.New(365 * 24 * time.Hour)},
		Action: &schedulev1.CreateRequest_Publish{Publish: &messagev1.PublishRequest{
			Queue: "ticks", Payload: &messagev1.PublishRequest_Message{Message: "secret"},
		}},
	}
}

func hiddenSchedules(t *testing.T, acme, _ party) hidden {
	const name, other = "hidden-schedule", "hidden-too"
	for _, n := range []string{name, other} {
		if _, err := acme.schedules().Create(t.Context(), yearly(n)); err != nil {
			t.Fatal(err)
		}
	}
	run, err := acme.schedules().Trigger(t.Context(), &schedulev1.TriggerRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acme.schedules().Trigger(t.Context(), &schedulev1.TriggerRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	backfill, err := acme.schedules().Backfill(t.Context(), &schedulev1.BackfillRequest{
		Name: other, StartTime: timestamppb.New(time.Unix(1.7e9, 0)), EndTime: timestamppb.New(time.Unix(1.7e9, 0).AddDate(1, 0, 0)),
	})
	if err != nil || backfill.GetCount() != 1 {
		t.Fatal(backfill, err)
	}
	list, err := acme.schedules().List(t.Context(), &schedulev1.ListRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	byName := func(call func(party) error) func(*testing.T, party) {
		return func(t *testing.T, other party) { wantCode(t, call(other), connect.CodeNotFound) }
	}
	return hidden{
		tries: map[protoreflect.Name]func(*testing.T, party){
			"Create": func(t *testing.T, other party) { // Names are each tenant's own.
				if _, err := other.schedules().Create(t.Context(), yearly(name)); err != nil {
					t.Error(err)
				}
				if _, err := other.schedules().Delete(t.Context(), &schedulev1.DeleteRequest{Name: name}); err != nil {
					t.Error(err)
				}
			},
			"Get": byName(func(p party) error {
				_, err := p.schedules().Get(t.Context(), &schedulev1.GetRequest{Name: name})
				return err
			}),
			"List": func(t *testing.T, other party) {
				res, err := other.schedules().List(t.Context(), &schedulev1.ListRequest{})
				if err != nil || strings.Contains(res.String(), "hidden") {
					t.Errorf("got %v, %v", res, err)
				}
				_, err = other.schedules().List(t.Context(), &schedulev1.ListRequest{PageSize: 1, PageToken: list.GetNextPageToken()})
				wantCode(t, err, connect.CodeInvalidArgument)
			},
			"Update": byName(func(p party) error {
				_, err := p.schedules().Update(t.Context(), &schedulev1.UpdateRequest{Name: name, Description: "changed"})
				return err
			}),
			"Delete": byName(func(p party) error {
				_, err := p.schedules().Delete(t.Context(), &schedulev1.DeleteRequest{Name: name})
				return err
			}),
			"Pause": byName(func(p party) error {
				_, err := p.schedules().Pause(t.Context(), &schedulev1.PauseRequest{Name: name})
				return err
			}),
			"Resume": byName(func(p party) error {
				_, err := p.schedules().Resume(t.Context(), &schedulev1.ResumeRequest{Name: name})
				return err
			}),
			"Trigger": byName(func(p party) error {
				_, err := p.schedules().Trigger(t.Context(), &schedulev1.TriggerRequest{Name: name})
				return err
			}),
			"Backfill": byName(func(p party) error {
				_, err := p.schedules().Backfill(t.Context(), &schedulev1.BackfillRequest{
					Name: name, StartTime: timestamppb.New(time.Unix(1.7e9, 0)), EndTime: timestamppb.New(time.Unix(1.7e9, 0).AddDate(1, 0, 0)),
				})
				return err
			}),
			"GetBackfill": byName(func(p party) error {
				_, err := p.schedules().GetBackfill(t.Context(), &schedulev1.GetBackfillRequest{Schedule: other, Id: backfill.GetBackfillId()})
				return err
			}),
			"CancelBackfill": byName(func(p party) error {
				_, err := p.schedules().CancelBackfill(t.Context(), &schedulev1.CancelBackfillRequest{Schedule: other, Id: backfill.GetBackfillId()})
				return err
			}),
			"ListRuns": byName(func(p party) error {
				_, err := p.schedules().ListRuns(t.Context(), &schedulev1.ListRunsRequest{Schedule: name})
				return err
			}),
			"GetRun": byName(func(p party) error {
				_, err := p.schedules().GetRun(t.Context(), &schedulev1.GetRunRequest{Schedule: name, Id: run.GetId()})
				return err
			}),
			"CancelRun": byName(func(p party) error {
				_, err := p.schedules().CancelRun(t.Context(), &schedulev1.CancelRunRequest{Schedule: name, Id: run.GetId()})
				return err
			}),
			"RetryRun": byName(func(p party) error {
				_, err := p.schedules().RetryRun(t.Context(), &schedulev1.RetryRunRequest{Schedule: name, Id: run.GetId()})
				return err
			}),
			"ListUpcoming": func(t *testing.T, other party) {
				res, err := other.schedules().ListUpcoming(t.Context(), &schedulev1.ListUpcomingRequest{})
				if err != nil || strings.Contains(res.String(), "hidden") {
					t.Errorf("got %v, %v", res, err)
				}
			},
			"ListScheduleChanges": func(t *testing.T, other party) {
				// Its own changes are those of the schedule of that name that it makes above, if it made one yet.
				res, err := other.schedules().ListScheduleChanges(t.Context(), &schedulev1.ListScheduleChangesRequest{Schedule: "hidden-too"})
				if err == nil {
					t.Errorf("got %v", res)
				}
				wantCode(t, err, connect.CodeNotFound)
			},
			"Preview": func(t *testing.T, other party) {
				res, err := other.schedules().Preview(t.Context(), &schedulev1.PreviewRequest{
					Name: name, Timing: &schedulev1.PreviewRequest_Cron{Cron: "@daily"}, Count: 1,
				})
				if err != nil || len(res.GetFireTimes()) != 1 {
					t.Errorf("got %v, %v", res, err)
				}
			},
		},
		state: func(t *testing.T) []proto.Message {
			got, err := acme.schedules().Get(t.Context(), &schedulev1.GetRequest{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			listed, err := acme.schedules().List(t.Context(), &schedulev1.ListRequest{})
			if err != nil {
				t.Fatal(err)
			}
			changes, err := acme.schedules().ListScheduleChanges(t.Context(), &schedulev1.ListScheduleChangesRequest{Schedule: name})
			if err != nil {
				t.Fatal(err)
			}
			runs, err := acme.schedules().ListRuns(t.Context(), &schedulev1.ListRunsRequest{Schedule: name})
			if err != nil {
				t.Fatal(err)
			}
			return []proto.Message{got, listed, changes, runs}
		},
	}
}
