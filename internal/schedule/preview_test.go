package schedule_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"plinth/internal/cron"
	"plinth/internal/errs"
	"plinth/internal/schedule"
)

// The fire times of all schedules are one list, in their order, up to a number or a moment, without those that will not be.
func TestListUpcoming(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	start := at(t, "2031-01-01T00:00:00Z")
	from := func(interval, after time.Duration) schedule.Definition {
		d := every(interval)
		d.StartTime = start.Add(after)
		return d
	}
	p.create(t, ctx, "a", from(time.Hour, 0))
	p.create(t, ctx, "b", from(2*time.Hour, 30*time.Minute))
	once := every(0)
	once.At = start.Add(75 * time.Minute)
	p.create(t, ctx, "c", once)
	d, two := from(time.Hour, 45*time.Minute), int64(2)
	d.RemainingRuns = &two
	p.create(t, ctx, "d", d)
	p.create(t, ctx, "paused", from(time.Minute, 0))
	if _, err := p.Pause(ctx, parse(t, "paused"), ""); err != nil {
		t.Fatal(err)
	}
	p.create(t, as(t, "globex"), "other", from(time.Minute, 0))
	want := strings.Fields("a0:00 b0:30 d0:45 a1:00 c1:15 d1:45 a2:00 b2:30 a3:00 a4:00")
	for size := range 11 {
		for _, end := range []time.Time{{}, once.At} {
			found, err := p.ListUpcoming(ctx, max(1, size), end)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, u := range found {
				got = append(got, u.Schedule.String()+strings.TrimPrefix(u.Time.UTC().Format("15:04"), "0"))
			}
			wanted := want[:max(1, min(size, 10))]
			if !end.IsZero() {
				wanted = wanted[:min(len(wanted), 4)]
			}
			if !slices.Equal(got, wanted) {
				t.Errorf("%d before %v: %v, not %v", size, end, got, wanted)
			}
		}
	}
}

// Fire times are listed in their order, whatever their jitter and however few are asked for. Schedules that have none, for whatever
// reason, take the place of no others.
func TestListUpcomingIsInTheOrderOfFireTimes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	start := at(t, "2031-01-01T00:00:00Z")
	for _, s := range []struct {
		name          string
		after, jitter time.Duration
	}{{"late", 0, time.Hour}, {"z", 2 * time.Minute, 0}, {"y", 2 * time.Minute, 0}, {"bad", 0, 0}} {
		d := every(24 * time.Hour)
		d.StartTime, d.Jitter = start.Add(s.after), s.jitter
		p.create(t, ctx, s.name, d)
	}
	f.exec(t, `UPDATE schedules SET definition = '{"cron": "no", "action": {}}' WHERE name = 'bad'`)
	if n := f.count(t, `SELECT count(*) FROM schedules WHERE name = 'late' AND next_due_at > next_fire_at + interval '3 minutes'`); n != 1 {
		t.Fatal("the jitter is too short to tell anything")
	}
	want := []string{"late", "y", "z", "late", "y", "z"}
	for size := 1; size <= len(want); size++ {
		found, err := p.ListUpcoming(ctx, size, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, u := range found {
			got = append(got, u.Schedule.String())
		}
		if !slices.Equal(got, want[:size]) {
			t.Errorf("%d: %v, not %v", size, got, want[:size])
		}
	}
}

// A preview tells of each fire time what the clocks do, and what they leave out, from any moment on.
func TestPreview(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	for _, c := range []struct {
		after  string
		policy cron.Policy
		want   []string
		kinds  []cron.Kind
		left   []string
	}{
		{"2025-03-29T00:00:00Z", cron.Policy{}, []string{"2025-03-29T01:30:00Z", "2025-03-30T01:00:00Z", "2025-03-31T00:30:00Z"}, []cron.Kind{cron.Normal, cron.Shifted, cron.Normal}, nil},
		{"2025-03-29T00:00:00Z", cron.Policy{Gap: cron.GapSkip}, []string{"2025-03-29T01:30:00Z", "2025-03-31T00:30:00Z", "2025-04-01T00:30:00Z"}, []cron.Kind{cron.Normal, cron.Normal, cron.Normal}, []string{"2025-03-30T02:30:00"}},
		{"2045-10-28T12:00:00Z", cron.Policy{Overlap: cron.OverlapTwice}, []string{"2045-10-29T00:30:00Z", "2045-10-29T01:30:00Z", "2045-10-30T01:30:00Z"}, []cron.Kind{cron.FirstPass, cron.SecondPass, cron.Normal}, nil},
		{"2025-10-25T12:00:00Z", cron.Policy{}, []string{"2025-10-26T00:30:00Z", "2025-10-27T01:30:00Z", "2025-10-28T01:30:00Z"}, []cron.Kind{cron.FirstPass, cron.Normal, cron.Normal}, []string{"2025-10-26T02:30:00"}},
	} {
		timing := schedule.Timing{Cron: "30 2 * * *", TimeZone: "Europe/Berlin", DST: c.policy, Jitter: time.Hour}
		got, err := p.Preview(ctx, timing, schedule.Asked{Name: "s", After: at(t, c.after), Count: 3})
		if err != nil {
			t.Fatal(err)
		}
		var kinds []cron.Kind
		for _, fire := range got.Fires {
			kinds = append(kinds, fire.Kind)
			if by := fire.Due.Sub(fire.Time); by < 0 || by > time.Hour {
				t.Errorf("%v is due %v later", fire.Time, by)
			}
		}
		var left []string
		for _, skip := range got.Skipped {
			left = append(left, skip.Local)
		}
		if !slices.Equal(times(got.Fires), c.want) || !slices.Equal(kinds, c.kinds) || !slices.Equal(left, c.left) {
			t.Errorf("%s %+v: %v %v, left out %v", c.after, c.policy, times(got.Fires), kinds, left)
		}
	}
	if n := f.count(t, `SELECT count(*) FROM schedules`); n != 0 {
		t.Errorf("%d schedules were made", n)
	}
	words := map[string]bool{}
	for _, l := range []cron.Language{cron.English, cron.Chinese} {
		for _, timing := range []schedule.Timing{{Cron: "@daily"}, {Interval: time.Hour}, {At: at(t, "2031-01-01T00:00:00Z")}} {
			got, err := p.Preview(ctx, timing, schedule.Asked{Count: 1, Language: l})
			if err != nil || len(got.Fires) != 1 || got.Description == "" {
				t.Errorf("%+v: %+v %v", timing, got, err)
			}
			words[got.Description] = true
		}
	}
	if len(words) != 6 {
		t.Errorf("the words are %v", words)
	}
	if _, err := p.Preview(ctx, schedule.Timing{Cron: "0 0 30 2 *"}, schedule.Asked{}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("what never fires: %v", err)
	}
}
