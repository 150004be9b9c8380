package message

import (
	"context"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
)

const (
	tellEvery = time.Second
	// tellAgain is how often a worker writes what has not changed while there is something to tell. After tellFresh it has ended.
	tellAgain = 20 * time.Second
	tellFresh = time.Minute
	tellLimit = 5 * time.Second
)

// PushStatus is how the calls of a push do, of all workers together.
type PushStatus struct {
	Breaker                              string // closed, open or half_open: the worst of any worker
	ResumeAt, LastSuccessAt, LastErrorAt time.Time
	Outstanding, Concurrency             int
	Latency                              time.Duration
	LastError                            string
}

// toldFigures are a worker's row.
type toldFigures struct {
	tenantQueue
	pushFigures
}

// tell writes the figures of the pushes to the table until ctx ends, those that have changed once a second.
func (p *pushes) tell(ctx context.Context) {
	written := map[tenantQueue]time.Time{}
	for loop.Sleep(ctx, tellEvery) {
		var rows []toldFigures
		pushers := p.each()
		for q, one := range pushers {
			f, live, changed := one.endpoint.figures()
			if changed || live && time.Since(written[q]) > tellAgain {
				written[q] = time.Now()
				rows = append(rows, toldFigures{q, f})
			}
		}
		for q := range written {
			if pushers[q] == nil {
				delete(written, q)
			}
		}
		if len(rows) == 0 {
			continue
		}
		writing, cancel := context.WithTimeout(ctx, tellLimit)
		if err := upsertPushFigures(writing, p.worker.service.system, p.id, rows); err != nil && ctx.Err() == nil {
			p.worker.service.log.Warn("the figures of pushes are lost", zap.Int("queues", len(rows)), zap.Error(err))
		}
		cancel()
	}
}

// summed returns the status of a queue by the rows of its workers. fresh tells of each whether the worker still writes.
func summed(rows []pushFigures, fresh []bool, now time.Time) *PushStatus {
	s := &PushStatus{Breaker: breakerClosed}
	rank := map[string]int{breakerClosed: 0, breakerHalfOpen: 1, breakerOpen: 2}
	for i, f := range rows {
		if f.succeededAt.After(s.LastSuccessAt) {
			s.LastSuccessAt = f.succeededAt
		}
		if f.erredAt.After(s.LastErrorAt) {
			s.LastErrorAt, s.LastError = f.erredAt, f.problem
		}
		if s.Latency == 0 { // The rows that were written last come first.
			s.Latency = f.latency
		}
		if !fresh[i] {
			continue
		}
		s.Outstanding += f.outstanding
		s.Concurrency += f.concurrency
		if rank[f.breaker] > rank[s.Breaker] {
			s.Breaker = f.breaker
		}
		if f.resumeAt.After(now) && (s.ResumeAt.IsZero() || f.resumeAt.Before(s.ResumeAt)) {
			s.ResumeAt = f.resumeAt
		}
	}
	return s
}
