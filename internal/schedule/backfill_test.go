package schedule_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/schedule"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

// berlin is a definition that publishes each day at half past two, which the clocks of Berlin skip in spring and repeat in autumn.
func berlin() schedule.Definition {
	return schedule.Definition{Timing: schedule.Timing{Cron: "30 2 * * *", TimeZone: "Europe/Berlin"}, Action: publishTo("q")}
}

func (p *process) backfill(t *testing.T, ctx context.Context, name string, ask schedule.BackfillRequest) schedule.Backfilled {
	t.Helper()
	done, err := p.Backfill(ctx, parse(t, name), ask)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func (p *process) ends(t *testing.T, ctx context.Context, name, id string) (b schedule.Backfill) {
	t.Helper()
	eventually(t, "the backfill ends", func() bool {
		var err error
		if b, err = p.GetBackfill(ctx, parse(t, name), id); err != nil {
			t.Fatal(err)
		}
		return !b.EndedAt.IsZero()
	})
	return b
}

func times(fires []schedule.Fire) (all []string) {
	for _, f := range fires {
		all = append(all, f.Time.UTC().Format(time.RFC3339))
	}
	return all
}

// A backfill runs exactly the fire times of its half-open range, whatever the clocks did in it, and only its dry run's token once.
func TestBackfill(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	d, left := berlin(), int64(5)
	d.RemainingRuns = &left
	p.create(t, ctx, "s", d)
	if _, err := p.Pause(ctx, parse(t, "s"), "backfills still work"); err != nil {
		t.Fatal(err)
	}
	p.work(t)
	for _, c := range []struct {
		start, end string
		want       []string
	}{
		{"2025-03-29T00:00:00+01:00", "2025-04-01T00:00:00+02:00", []string{"2025-03-29T01:30:00Z", "2025-03-30T01:00:00Z", "2025-03-31T00:30:00Z"}},
		{"2025-10-25T00:00:00+02:00", "2025-10-28T00:00:00+01:00", []string{"2025-10-25T00:30:00Z", "2025-10-26T00:30:00Z", "2025-10-27T01:30:00Z"}},
		{"2025-01-01T01:30:00Z", "2025-01-02T01:30:00Z", []string{"2025-01-01T01:30:00Z"}},
		{"2025-01-01T01:30:01Z", "2025-01-02T01:30:00Z", nil},
	} {
		before := len(runs(t, p, ctx, "s"))
		dry := p.backfill(t, ctx, "s", schedule.BackfillRequest{Start: at(t, c.start), End: at(t, c.end), DryRun: true})
		if got := times(dry.Fires); !slices.Equal(got, c.want) || dry.Token == "" || dry.ID != "" || len(runs(t, p, ctx, "s")) != before {
			t.Errorf("from %s to %s: %v, %+v", c.start, c.end, got, dry)
		}
		done := p.backfill(t, ctx, "s", schedule.BackfillRequest{Token: dry.Token})
		if got := times(done.Fires); !slices.Equal(got, c.want) {
			t.Errorf("run are %v, not %v", got, c.want)
		}
		if c.want == nil {
			continue
		}
		if b := p.ends(t, ctx, "s", done.ID); b.Runs != len(c.want) || b.Queued != 0 || b.Active != 0 || b.By != "key:acme" {
			t.Errorf("%+v", b)
		}
		for i, r := range runs(t, p, ctx, "s")[before:] {
			if r.FireAt.Format(time.RFC3339) != c.want[i] || r.Trigger != schedule.FromBackfill || r.State != schedule.Succeeded || r.BackfillID != done.ID {
				t.Errorf("run %d: %+v", i, r)
			}
		}
		if _, err := p.Backfill(ctx, parse(t, "s"), schedule.BackfillRequest{Token: dry.Token}); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("a token twice: %v", err)
		}
	}
	s, err := p.Get(ctx, parse(t, "s"))
	if err != nil || *s.Remaining != 5 || s.Stats.Fired != 7 || f.count(t, `SELECT count(*) FROM message_waiting`) != 7 {
		t.Errorf("%+v %v", s, err)
	}
}

// An interval goes back in its phase, beyond when its schedule was made.
func TestBackfillOfInterval(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	made, err := p.Create(ctx, parse(t, "s"), every(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	dry := p.backfill(t, ctx, "s", schedule.BackfillRequest{Start: made.CreatedAt.Add(-3 * time.Hour), End: made.CreatedAt, DryRun: true})
	if len(dry.Fires) != 3 || !dry.Fires[0].Time.Equal(made.CreatedAt.Add(-3*time.Hour)) || !dry.Fires[2].Time.Equal(made.CreatedAt.Add(-time.Hour)) {
		t.Errorf("%v of one made at %v", times(dry.Fires), made.CreatedAt)
	}
}

// A token makes what its dry run showed, though the schedule has another definition since; one that was tampered with does not.
func TestBackfillToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	p.create(t, ctx, "s", berlin())
	p.create(t, ctx, "other", berlin())
	ask := schedule.BackfillRequest{Start: at(t, "2025-06-01T00:00:00Z"), End: at(t, "2025-06-03T00:00:00Z"), DryRun: true}
	dry := p.backfill(t, ctx, "s", ask)
	p.update(t, ctx, "s", func(d *schedule.Definition) { d.Cron, d.Action.Publish.Text = "0 * * * *", "changed" })

	raw, err := base64.RawURLEncoding.DecodeString(dry.Token)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(change func(token map[string]any)) string {
		token := map[string]any{}
		if err := json.Unmarshal(raw, &token); err != nil {
			t.Fatal(err)
		}
		change(token)
		encoded, err := json.Marshal(token)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(encoded)
	}
	old := uuid.Must(uuid.NewV7())
	binary.BigEndian.PutUint64(old[:8], uint64(time.Now().Add(-2*time.Hour).UnixMilli())<<16|0x7000)
	for what, c := range map[string]struct {
		name  string
		token string
		kind  errs.Kind
	}{
		"of another schedule": {"other", dry.Token, errs.InvalidArgument},
		"nonsense":            {"s", "nonsense", errs.InvalidArgument},
		"old":                 {"s", forged(func(token map[string]any) { token["i"] = old.String() }), errs.FailedPrecondition},
		"other times":         {"s", forged(func(token map[string]any) { token["d"] = "AAAA" }), errs.FailedPrecondition},
		"no version":          {"s", forged(func(token map[string]any) { token["v"] = 99 }), errs.InvalidArgument},
		"the future":          {"s", forged(func(token map[string]any) { token["b"] = time.Now().Add(time.Hour).UnixMicro() }), errs.InvalidArgument},
		"too many at a time":  {"s", forged(func(token map[string]any) { token["c"] = 5000 }), errs.InvalidArgument},
	} {
		if _, err := p.Backfill(ctx, parse(t, c.name), schedule.BackfillRequest{Token: c.token}); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := p.Backfill(ctx, parse(t, "s"), schedule.BackfillRequest{Token: dry.Token, Start: ask.Start}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a token and a range: %v", err)
	}
	p.work(t)
	done := p.backfill(t, ctx, "s", schedule.BackfillRequest{Token: dry.Token})
	p.ends(t, ctx, "s", done.ID)
	all := runs(t, p, ctx, "s")
	if len(all) != 2 || all[0].Version != 1 || all[0].FireAt.Format(time.RFC3339) != "2025-06-01T00:30:00Z" {
		t.Errorf("%+v", all)
	}
	if n := f.count(t, `SELECT count(*) FROM message_waiting WHERE convert_from(body, 'UTF8') = 'changed'`); n != 0 {
		t.Error("the runs have the definition of today")
	}
}

// What cannot be backfilled is refused with the field, and changes nothing.
func TestBackfillRefusals(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.configured(t, schedule.Config{Limits: schedule.Limits{Runs: 3}}), as(t, "acme")
	p.create(t, ctx, "s", berlin())
	p.create(t, ctx, "dense", every(time.Second))
	from := at(t, "2025-06-01T00:00:00Z")
	for what, c := range map[string]struct {
		name string
		ask  schedule.BackfillRequest
		kind errs.Kind
		text string
	}{
		"no range":   {"s", schedule.BackfillRequest{}, errs.InvalidArgument, "start_time"},
		"backwards":  {"s", schedule.BackfillRequest{Start: from, End: from.Add(-time.Hour)}, errs.InvalidArgument, "end_time"},
		"the future": {"s", schedule.BackfillRequest{Start: from, End: time.Now().Add(time.Hour)}, errs.InvalidArgument, "end_time"},
		"too many":   {"dense", schedule.BackfillRequest{Start: from, End: from.Add(10_001 * time.Second)}, errs.InvalidArgument, "10000 fire times"},
		"quota":      {"s", schedule.BackfillRequest{Start: from, End: from.Add(4 * 24 * time.Hour)}, errs.ResourceExhausted, "3"},
		"unknown":    {"none", schedule.BackfillRequest{Start: from, End: from.Add(time.Hour)}, errs.NotFound, "none"},
	} {
		if _, err := p.Backfill(ctx, parse(t, c.name), c.ask); !errs.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := f.count(t, `SELECT (SELECT count(*) FROM schedule_runs) + (SELECT count(*) FROM schedule_backfills) + (SELECT sum(backfills) FROM schedules)`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if done := p.backfill(t, ctx, "s", schedule.BackfillRequest{Start: from, End: from.Add(3 * 24 * time.Hour)}); len(done.Fires) != 3 {
		t.Errorf("%+v", done)
	}
}

// No more runs of a backfill are under way than it may have, whatever the number of workers, and none of them meets another run of the
// schedule unless it may.
func TestBackfillConcurrency(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	ctx := as(t, "acme")
	p, other := f.process(t, g.job()), f.process(t, g.job())
	p.work(t)
	other.work(t)
	d := berlin()
	d.Action = daily("gate").Action
	p.create(t, ctx, "s", d)
	first := p.trigger(t, ctx, "s")
	g.begins(t)
	ask := schedule.BackfillRequest{Start: at(t, "2025-06-01T00:00:00Z"), End: at(t, "2025-06-06T00:00:00Z"), MaxConcurrent: 2}
	waiting := p.backfill(t, ctx, "s", ask)
	if b, err := p.GetBackfill(ctx, parse(t, "s"), waiting.ID); err != nil || b.Queued != 5 || b.Active != 0 || b.Overlap != schedule.BufferAll {
		t.Fatalf("while another run is under way: %+v %v", b, err)
	}
	g.let <- nil
	p.becomes(t, ctx, "s", first.ID, schedule.Succeeded)
	for begun := 2; begun <= 5; begun++ {
		g.begins(t)
		if begun == 2 {
			g.begins(t)
		}
		if b, err := p.GetBackfill(ctx, parse(t, "s"), waiting.ID); err != nil || b.Active != 2 || b.Queued != 5-begun {
			t.Fatalf("with %d begun: %+v %v", begun, b, err)
		}
		if r := p.trigger(t, ctx, "s"); r.State != schedule.Skipped || r.SkipReason != "overlap" {
			t.Errorf("a run of the schedule meets one of the backfill: %+v", r)
		}
		g.let <- nil
	}
	g.let <- nil
	p.ends(t, ctx, "s", waiting.ID)
	select {
	case a := <-g.began:
		t.Errorf("one more began: %+v", a)
	default:
	}
	for i, r := range slices.DeleteFunc(runs(t, p, ctx, "s"), func(r schedule.Run) bool { return r.BackfillID == "" }) {
		if want := at(t, "2025-06-01T00:30:00Z").AddDate(0, 0, i); !r.FireAt.Equal(want) || r.State != schedule.Succeeded {
			t.Errorf("run %d: %+v", i, r)
		}
	}

	// With ALLOW they go beside it, with SKIP they are skipped, and with CANCEL_OTHER they end it.
	first = p.trigger(t, ctx, "s")
	g.begins(t)
	ask.Overlap = schedule.Skip
	skipped := p.backfill(t, ctx, "s", ask)
	if b := p.ends(t, ctx, "s", skipped.ID); b.Queued != 0 {
		t.Errorf("%+v", b)
	}
	ask.Overlap = schedule.Allow
	beside := p.backfill(t, ctx, "s", ask)
	g.begins(t)
	g.begins(t)
	ask.Overlap = schedule.CancelOther
	ask.End = at(t, "2025-06-02T00:00:00Z")
	cancelling := p.backfill(t, ctx, "s", ask)
	p.becomes(t, ctx, "s", first.ID, schedule.Cancelled)
	eventually(t, "the cancelling backfill ends", func() bool {
		select {
		case <-g.began:
			g.let <- nil
		default:
		}
		b, err := p.GetBackfill(ctx, parse(t, "s"), cancelling.ID)
		return err == nil && !b.EndedAt.IsZero()
	})
	if _, err := p.CancelBackfill(ctx, parse(t, "s"), beside.ID); err != nil && !errs.Is(err, errs.FailedPrecondition) {
		t.Error(err)
	}
	p.ends(t, ctx, "s", beside.ID)
	if n := f.count(t, `SELECT sum(backfills) FROM schedules`); n != 0 {
		t.Errorf("%d backfills are counted", n)
	}
}

// A backfill that is cancelled ends all of its runs, and tells so of each.
func TestCancelBackfill(t *testing.T) {
	t.Parallel()
	f, g := newFixture(t), newGate()
	f.bind(t, "acme", schedule.RunsTopic)
	p, ctx := f.process(t, g.job()), as(t, "acme")
	p.work(t)
	d := berlin()
	d.Action = daily("gate").Action
	p.create(t, ctx, "s", d)
	done := p.backfill(t, ctx, "s", schedule.BackfillRequest{Start: at(t, "2025-06-01T00:00:00Z"), End: at(t, "2025-06-06T00:00:00Z")})
	g.begins(t)
	b, err := p.CancelBackfill(ctx, parse(t, "s"), done.ID)
	if err != nil || b.Queued != 0 || b.CancelledBy != "key:acme" {
		t.Fatalf("%+v %v", b, err)
	}
	p.ends(t, ctx, "s", done.ID)
	for _, r := range runs(t, p, ctx, "s") {
		if r.State != schedule.Cancelled || r.EndedAt.IsZero() {
			t.Errorf("%+v", r)
		}
	}
	if keys, _ := f.events(t, schedule.RunsTopic); len(keys) != 5 || keys[0] != "acme cancelled.s" {
		t.Errorf("told are %q", keys)
	}
	if _, err := p.CancelBackfill(ctx, parse(t, "s"), done.ID); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("cancelled twice: %v", err)
	}
	if n := f.count(t, `SELECT count(*) FROM schedule_runs WHERE queued OR next_at IS NOT NULL`); n != 0 {
		t.Errorf("%d runs may still begin", n)
	}
}

// Messages of a backfill are published one after the other, in batches and each once, by several workers.
func TestBackfillOfMessages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	p.work(t)
	f.process(t).work(t)
	d := every(time.Hour)
	d.StartTime = at(t, "2025-01-01T00:00:00Z")
	p.create(t, ctx, "s", d)
	done := p.backfill(t, ctx, "s", schedule.BackfillRequest{Start: d.StartTime, End: d.StartTime.Add(1200 * time.Hour)})
	p.ends(t, ctx, "s", done.ID)
	if n := f.count(t, `SELECT count(DISTINCT attributes ->> 'fire_time') FROM message_waiting`); n != 1200 || f.count(t, `SELECT count(*) FROM message_waiting`) != 1200 {
		t.Errorf("%d fire times", n)
	}
}
