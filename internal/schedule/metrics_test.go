package schedule_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/schedule"
)

// TestMetrics counts what a schedule missed, what it caught up, and how late that was.
func TestMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.queue(t, "acme", "q")
	p, ctx := f.process(t), as(t, "acme")
	d := every(time.Minute)
	d.CatchUp = schedule.CatchUpLatest
	if _, err := p.Create(ctx, parse(t, "late"), d); err != nil {
		t.Fatal(err)
	}
	// An hour without a worker, whose last fire time is 30 s ago.
	f.exec(t, `UPDATE schedules SET created_at = now() - interval '3630 seconds', next_fire_at = now() - interval '3570 seconds',
		next_due_at = now() - interval '3570 seconds'`)
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.Metrics()...)
	p.work(t)
	eventually(t, "59 are counted as missed, and one as made late", func() bool {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counted := map[string]float64{}
		for _, family := range families {
			m := family.GetMetric()[0]
			counted[family.GetName()] = m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
		}
		return counted["plinth_schedule_missed_total"] == 59 && counted["plinth_schedule_runs_total"] >= 1 &&
			counted["plinth_schedule_lateness_seconds"] >= 25
	})
}
