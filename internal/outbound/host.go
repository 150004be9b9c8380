package outbound

import (
	"container/list"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// maxBreakers is the most breakers that are kept. The one that has not been used for longest is forgotten for a new one.
const maxBreakers = 4096

// breakers has a circuit breaker for each host of each tenant: what a tenant calls must not close a host to others.
type breakers struct {
	mu    sync.Mutex
	byKey map[string]*list.Element
	order *list.List // of *breaker, the one that was used last in front
}

type breaker struct {
	circuitbreaker.CircuitBreaker[any]
	key string
}

func newBreakers() *breakers { return &breakers{byKey: map[string]*list.Element{}, order: list.New()} }

func (b *breakers) of(tenant, host string) *breaker {
	key := tenant + " " + host
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.byKey[key]; ok {
		b.order.MoveToFront(e)
		return e.Value.(*breaker)
	}
	if b.order.Len() >= maxBreakers {
		delete(b.byKey, b.order.Remove(b.order.Back()).(*breaker).key)
	}
	one := &breaker{key: key, CircuitBreaker: circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(0.5, breakerCalls, breakerPeriod).
		WithDelay(breakerDelay).WithJitterFactor(0.1).WithSuccessThreshold(1).Build()}
	b.byKey[key] = b.order.PushFront(one)
	return one
}

const (
	breakerCalls  = 10
	breakerPeriod = 30 * time.Second
	breakerDelay  = 10 * time.Second
)

// settle records how a call ended. What says nothing about the host is recorded only where the breaker waits for the end of
// this very call.
func (b *breaker) settle(o outcome) {
	switch {
	case o == succeeded:
		b.RecordSuccess()
	case o == failed || b.IsHalfOpen():
		b.RecordFailure()
	}
}

// outcome is what a call says about its host.
type outcome uint8

const (
	unknown outcome = iota
	succeeded
	failed
)
