package ratelimit

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"plinth/internal/kv"
	"plinth/internal/observe"
)

const probeEvery = time.Second

// outage is a time in which Redis cannot be used.
type outage struct {
	refused   bool         // it answers, and refuses the script
	tenant    string       // whose keys were asked for: in a Cluster, another node may be fine
	nextProbe atomic.Int64 // on the Limiter's clock
}

// usable reports whether Redis answers, as far as is known. While it does not, usable has it probed once in a while.
func (l *Limiter) usable(now int64) bool {
	o := l.outage.Load()
	if o == nil {
		return true
	}
	if at := o.nextProbe.Load(); now >= at && o.nextProbe.CompareAndSwap(at, now+int64(probeEvery)) {
		go l.probe(o)
	}
	return false
}

// probe ends an outage if Redis takes writes again: one that can only be read is of no use. It takes no tokens.
func (l *Limiter) probe(o *outage) {
	defer observe.LogPanic(l.log)
	bucket := &bucket{tenant: o.tenant, key: kv.Key(o.tenant, "rate-probe")}
	_, err := l.ask(context.Background(), 0, []query{{bucket: bucket, rate: rate{Count: 1, Per: time.Millisecond}}})
	if err != nil {
		l.fail(o.tenant, err)
	} else if l.outage.CompareAndSwap(o, nil) {
		l.log.Info("Redis is back: rates hold for all processes together")
	}
}

// fail begins an outage, or turns one of being away into one of refusing and the other way round.
func (l *Limiter) fail(tenant string, err error) {
	old := l.outage.Load()
	next := &outage{refused: !kv.Away(err), tenant: tenant}
	next.nextProbe.Store(l.clock() + int64(probeEvery))
	if !l.outage.CompareAndSwap(old, next) || old != nil && old.refused == next.refused {
		return // Another call has said it.
	}
	if next.refused {
		l.log.Error("Redis refuses what the rate limiter asks: rates hold for each process by itself until that is mended", zap.Error(err))
	} else {
		l.log.Warn("Redis is away: rates hold for each process by itself", zap.Error(err))
	}
}
