package schedule_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"plinth/internal/schedule"
)

// Changes are listed in the order in which they were made, on every page, however close to each other they are and whatever the clock
// does: here all seem to be made within the millisecond of the first, whose id is the last of it.
func TestChangesAreInTheirOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p, ctx := f.process(t), as(t, "acme")
	p.create(t, ctx, "s", every(24*time.Hour))
	f.exec(t, `UPDATE schedule_changes SET id = (left(lpad(to_hex((extract(epoch FROM now() + interval '1 hour') * 1000)::bigint), 12, '0')
		|| '7fffbfffffffffffffff', 32))::uuid`)
	want := []string{"create"}
	for range 4 {
		if _, err := p.Pause(ctx, parse(t, "s"), ""); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Resume(ctx, parse(t, "s"), ""); err != nil {
			t.Fatal(err)
		}
		want = append(want, "pause", "resume")
	}
	if err := p.Delete(ctx, parse(t, "s")); err != nil {
		t.Fatal(err)
	}
	p.create(t, ctx, "s", every(24*time.Hour))
	want = append(want, "delete", "create")
	slices.Reverse(want)
	for _, size := range []int{1, 2, 3, 100} {
		var got []string
		for token, more := "", true; more; more = token != "" {
			var changes []schedule.Change
			var err error
			if changes, token, err = p.ListScheduleChanges(ctx, parse(t, "s"), size, token); err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				got = append(got, string(c.Kind))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %s, not %s", size, strings.Join(got, " "), strings.Join(want, " "))
		}
	}
}
