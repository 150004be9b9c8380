package message

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"plinth/internal/observe"
	"plinth/internal/pg"
)

const (
	measureEvery = 30 * time.Second
	measureLimit = 10 * time.Second
	// maxMeasured is the most queues that have metrics of their own, the oldest ones. What waits and what is dead of all
	// others is "other".
	maxMeasured = 100
	// maxCounted is up to where messages of one queue are counted.
	maxCounted = 10_000
)

// other stands for the tenant and the queue of all that have no metrics of their own.
const other = "other"

// Outcomes of handlers.
const (
	outcomeHandled   = "handled"
	outcomeRetried   = "retried"
	outcomeDead      = "dead_letter"
	outcomeGivenBack = "given_back"
)

// metrics are those of this domain. Handlers are code, so their queues are few; all pushes have one label.
type metrics struct {
	outcomes *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	age      *prometheus.HistogramVec
	messages *prometheus.CounterVec

	queues                                       *observe.Reading
	depth, waiting, oldest, deadLetters, relayed *prometheus.Desc
}

func newMetrics() *metrics {
	of := []string{"tenant", "queue"}
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_handler_messages_total", Help: "Messages that handlers ended with, by the outcome: handled, retried, dead_letter or given_back.",
		}, []string{"queue", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plinth_handler_seconds", Help: "How long handlers took for a message.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 60, 300},
		}, []string{"queue"}),
		age: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plinth_handler_message_age_seconds", Help: "How old messages were when a handler got them for the first time, delays included.",
			Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 60, 300, 3600},
		}, []string{"queue"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plinth_messages_total", Help: "Messages of queues in this process: published, delivered, acknowledged. It is some seconds behind.",
		}, []string{"what"}),
		depth:       prometheus.NewDesc("plinth_queue_depth", "Messages that the broker holds for a queue and has not delivered; of the 100 oldest queues.", of, nil),
		waiting:     prometheus.NewDesc("plinth_queue_waiting_messages", "Messages that wait for their time or their next attempt, counted up to 10,000; beyond the 100 oldest queues they are other.", of, nil),
		oldest:      prometheus.NewDesc("plinth_queue_overdue_seconds", "For how long the earliest waiting message of a queue has been due; 0 if none is.", of, nil),
		deadLetters: prometheus.NewDesc("plinth_queue_dead_letters", "Dead letters, counted up to 10,000; beyond the 100 oldest queues they are other.", of, nil),
		relayed:     prometheus.NewDesc("plinth_relay_lag_seconds", "For how long the earliest waiting message of all has been due; 0 if none is.", nil, nil),
	}
	m.queues = observe.NewReading(measureEvery, m.depth, m.waiting, m.oldest, m.deadLetters, m.relayed)
	return m
}

// Metrics returns the metrics of this domain.
func (s *Service) Metrics() []prometheus.Collector {
	m := s.metrics
	return []prometheus.Collector{m.outcomes, m.seconds, m.age, m.messages, m.queues}
}

// handled counts what a handler did. began is zero if it was not called.
func (m *metrics) handled(queue string, outcome string, message Message, began time.Time) {
	m.outcomes.WithLabelValues(queue, outcome).Inc()
	if began.IsZero() {
		return
	}
	m.seconds.WithLabelValues(queue).Observe(time.Since(began).Seconds())
	if at := message.PublishedAt(); message.Attempt == 1 && !at.IsZero() {
		m.age.WithLabelValues(queue).Observe(max(0, began.Sub(at).Seconds()))
	}
}

// failed counts an attempt of a handler that failed.
func (m *metrics) failed(queue string, f *failure, began time.Time) {
	if f.dead {
		m.handled(queue, outcomeDead, f.message, began)
		return
	}
	m.handled(queue, outcomeRetried, f.message, began)
}

// counted adds counts that were taken from the counters.
func (m *metrics) counted(c count) {
	m.messages.WithLabelValues("published").Add(float64(c.published))
	m.messages.WithLabelValues("delivered").Add(float64(c.delivered))
	m.messages.WithLabelValues("acknowledged").Add(float64(c.acknowledged))
}

// measuring is the work of one process that reads what the metrics tell of queues.
func (s *Service) measuring() pg.Periodic {
	return pg.Periodic{Name: "message figures", Interval: measureEvery, Work: s.measure, Log: s.log}
}

// figures are those of a queue.
type figures struct {
	tenantQueue
	waiting, deadLetters int64
	overdue              time.Duration
}

// measure reads the figures of the queues. Depths that the broker does not tell in time are left out.
func (s *Service) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, measureLimit)
	defer cancel()
	queues, all, err := selectFigures(ctx, s.system)
	if err != nil {
		return err
	}
	m := s.metrics
	values := []prometheus.Metric{observe.Gauge(m.relayed, max(0, all.overdue.Seconds()))}
	broker := true
	for _, q := range queues {
		tenant, queue := q.tenant, q.queue.name
		values = append(values,
			observe.Gauge(m.waiting, float64(q.waiting), tenant, queue), observe.Gauge(m.deadLetters, float64(q.deadLetters), tenant, queue),
			observe.Gauge(m.oldest, max(0, q.overdue.Seconds()), tenant, queue))
		all.waiting, all.deadLetters = all.waiting-q.waiting, all.deadLetters-q.deadLetters
		if !broker {
			continue
		}
		if n, err := s.broker.Ready(ctx, q.queue.onBroker(tenant)); err == nil {
			values = append(values, observe.Gauge(m.depth, float64(n), tenant, queue))
		} else if broker = s.broker.Ping(ctx) == nil; !broker { // It is away, which is told elsewhere.
			continue
		}
	}
	values = append(values, observe.Gauge(m.waiting, max(0, float64(all.waiting)), other, other),
		observe.Gauge(m.deadLetters, max(0, float64(all.deadLetters)), other, other))
	m.queues.Set(values)
	return nil
}
