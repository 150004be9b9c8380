package message_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
)

// sample returns the value of a metric by its labels, in the order of their names, and how many series it has.
func sample(t *testing.T, s *message.Service, name string, labels ...string) (value float64, series int) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(s.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			series++
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if strings.Join(has, " ") == strings.Join(labels, " ") {
				value = valueOf(m)
			}
		}
	}
	return value, series
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.GetHistogram() != nil:
		return float64(m.GetHistogram().GetSampleCount())
	case m.GetCounter() != nil:
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}

// measure has the figures read as a worker does.
func measure(t *testing.T, s *message.Service) {
	t.Helper()
	if err := s.Measure(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestQueueMetrics reads the figures of more queues than have metrics of their own.
func TestQueueMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	ctx := auth.AsService(t.Context(), auth.DefaultTenant)
	const queues = 105
	for i := range queues {
		q := name(t, "q"+strconv.Itoa(i))
		if err := f.EnsureQueue(ctx, q); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Publish(ctx, message.Publication{To: message.ToQueue(q), Delay: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := f.Publish(ctx, message.Publication{To: message.ToQueue(name(t, "q0"))}); err != nil {
			t.Fatal(err)
		}
	}
	if _, series := sample(t, f.Service, "plinth_queue_waiting_messages"); series != 0 {
		t.Errorf("%d series before anything was read", series)
	}
	measure(t, f.Service)
	for _, c := range []struct {
		metric, queue, tenant string
		want                  float64
		series                int
	}{
		{"plinth_queue_waiting_messages", "q0", auth.DefaultTenant, 1, 101}, {"plinth_queue_waiting_messages", "other", "other", 5, 101},
		{"plinth_queue_depth", "q0", auth.DefaultTenant, 3, 100}, {"plinth_queue_overdue_seconds", "q0", auth.DefaultTenant, 0, 100},
	} {
		if got, series := sample(t, f.Service, c.metric, c.queue, c.tenant); got != c.want || series != c.series {
			t.Errorf("%s of %s: %v in %d series, want %v in %d", c.metric, c.queue, got, series, c.want, c.series)
		}
	}
	if _, err := f.owner.Exec(t.Context(), `UPDATE message_waiting SET due_at = now() - interval '1 minute' WHERE queue = 'q7'`); err != nil {
		t.Fatal(err)
	}
	measure(t, f.Service)
	if got, _ := sample(t, f.Service, "plinth_queue_overdue_seconds", "q7", auth.DefaultTenant); got < 60 {
		t.Errorf("overdue by %v s, want 60 at least", got)
	}
	if got, _ := sample(t, f.Service, "plinth_relay_lag_seconds"); got < 60 {
		t.Errorf("the relay is %v s behind, want 60 at least", got)
	}
}

// TestHandlerMetrics has a handler succeed, fail for a while, and fail for good.
func TestHandlerMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t, true)
	ctx := auth.AsService(t.Context(), auth.DefaultTenant)
	f.worker(t, time.Second, message.HandleBytes("q", func(_ context.Context, m message.Message) error {
		switch string(m.Body) {
		case "later":
			return errs.New(errs.Unavailable, "later")
		case "never":
			return errs.New(errs.InvalidArgument, "never")
		}
		return nil
	}))
	for _, body := range []string{"now", "later", "never"} {
		if _, err := f.Publish(ctx, message.Publication{To: message.ToQueue(name(t, "q")), Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		var missing error
		for _, outcome := range []string{"handled", "retried", "dead_letter"} {
			if got, _ := sample(t, f.Service, "plinth_handler_messages_total", outcome, "q"); got < 1 {
				missing = errors.New(outcome)
			}
		}
		if got, _ := sample(t, f.Service, "plinth_handler_message_age_seconds", "q"); got < 3 {
			missing = errors.New("age")
		}
		if missing == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not counted: %v", missing)
		}
	}
}
