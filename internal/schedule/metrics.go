package schedule

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/pg"
)

// metrics are those of this domain.
type metrics struct {
	late   prometheus.Histogram
	missed prometheus.Counter
	runs   *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		late: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "plinth_schedule_lateness_seconds", Help: "How long after their due time runs of schedules were made.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}),
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plinth_schedule_missed_total", Help: "Fire times that passed without a worker and are not caught up.",
		}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_schedule_runs_total", Help: "Runs that have ended, by their state: succeeded, failed, skipped or cancelled.",
		}, []string{"state"}),
	}
}

// Metrics returns the metrics of this domain.
func (s *Service) Metrics() []prometheus.Collector {
	return []prometheus.Collector{s.metrics.late, s.metrics.missed, s.metrics.runs}
}

// count counts runs once tx is committed. They are new if they were made in it.
func (m *metrics) count(tx *pg.Tx, now time.Time, runs []*Run, isNew bool) {
	var late []time.Duration
	missed, ended := int64(0), map[State]float64{}
	for _, r := range runs {
		switch {
		case r.State == Missed:
			missed += max(1, r.MissedCount)
			continue
		case isNew && (r.Trigger == FromSchedule || r.Trigger == FromCatchUp) && !r.DueAt.After(now):
			late = append(late, now.Sub(r.DueAt))
		}
		if r.ended() {
			ended[r.State]++
		}
	}
	tx.AfterCommit(func() {
		m.missed.Add(float64(missed))
		for _, d := range late {
			m.late.Observe(d.Seconds())
		}
		for state, n := range ended {
			m.runs.WithLabelValues(string(state)).Add(n)
		}
	})
}
