package message

import (
	"testing"
	"testing/synctest"
	"time"

	"plinth/internal/errs"
)

func saying(a answer, after ...time.Duration) judged {
	j := judged{says: a}
	if a != saysTaken {
		j.err = errs.New(errs.Unavailable, "the answer was %d", a)
	}
	if len(after) > 0 {
		j.after = &after[0]
	}
	return j
}

// round makes as many calls at a time as may be made, which take a second and all say the same. It returns how many that were.
func (e *endpoint) round(j judged) int {
	calls := make([]*call, e.allowed())
	for i := range calls {
		calls[i] = e.begin()
	}
	time.Sleep(time.Second)
	for _, c := range calls {
		c.told(j, time.Second)
		c.end()
	}
	return len(calls)
}

// Calls at a time double in a call's time, are halved once for all that tell of an overload at a time, and grow by one after that.
func TestEndpointAdapts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(64)
		for _, want := range []int{1, 2, 3, 5, 9, 17, 33} {
			if n := e.round(saying(saysTaken)); n < want {
				t.Fatalf("slow start: %d calls at a time, want %d", n, want)
			}
		}
		for e.allowed() < 64 {
			e.round(saying(saysTaken))
		}
		e.round(saying(saysOverload, 0))
		if n := e.allowed(); n != 32 {
			t.Fatalf("%d after an overload of 64", n)
		}
		for i := range 4 {
			if before, n := e.round(saying(saysTaken)), e.allowed(); n > before+1 || n < 32+i/2 {
				t.Fatalf("from %d to %d after an overload", before, n)
			}
		}
		for range 10 {
			e.round(saying(saysOverload, 0))
		}
		if n := e.allowed(); n != 1 {
			t.Errorf("%d after many overloads", n)
		}
		if _, _, changed := e.figures(); !changed {
			t.Error("nothing is told")
		}
		// Calls that do not use what may be made do not add to it.
		e = newEndpoint(64)
		e.round(saying(saysTaken))
		e.round(saying(saysTaken))
		before := e.allowed()
		for range 100 {
			c := e.begin()
			c.told(saying(saysTaken), 0)
			c.end()
		}
		if n := e.allowed(); n != before {
			t.Errorf("from %d to %d by calls one after the other", before, n)
		}
	})
}

// After failures in a row no calls are made for a time, which doubles, and then one. The calls that were under way count once.
func TestEndpointBreaks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(64)
		for e.allowed() < 64 {
			e.round(saying(saysTaken))
		}
		state := func(want string) time.Duration {
			t.Helper()
			f, live, _ := e.figures()
			if f.breaker != want || !live {
				t.Fatalf("%+v, live %v, want %s", f, live, want)
			}
			return e.held()
		}
		e.round(saying(saysFailing))
		if held := state(breakerOpen); held > time.Second || held <= 0 || e.allowed() != 1 {
			t.Fatalf("held for %v, %d calls", held, e.allowed())
		}
		longest := time.Duration(0)
		for range 10 {
			time.Sleep(e.held())
			state(breakerHalfOpen)
			if e.round(saying(saysFailing)) != 1 {
				t.Fatal("more than one call finds out")
			}
			longest = max(longest, state(breakerOpen))
		}
		if longest < 30*time.Second || longest > time.Minute {
			t.Errorf("held for %v at most", longest)
		}
		time.Sleep(e.held())
		e.round(saying(saysTaken))
		if f, live, _ := e.figures(); f.breaker != breakerClosed || live || e.held() > 0 || f.concurrency != 2 || f.problem != "the answer was 4" {
			t.Errorf("after a success: %+v, held for %v", f, e.held())
		}
		// An endpoint that answers, whatever it says of messages, is not down.
		for range 20 {
			e.round(saying(saysDeclined))
		}
		if e.held() > 0 {
			t.Error("it is held back for what it says of messages")
		}
	})
}

// An endpoint that asks to wait is left alone for that time, but for a second at least, and one that only says it has too much for longer
// each time.
func TestEndpointWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := newEndpoint(4)
		e.round(saying(saysOverload, time.Hour))
		if held := e.held(); held != time.Hour {
			t.Errorf("held for %v", held)
		}
		time.Sleep(time.Hour)
		for range 3 { // A time that is over by now is no wait, too.
			e.round(saying(saysOverload, 0))
			if held := e.held(); held != time.Second {
				t.Errorf("held for %v", held)
			}
			time.Sleep(time.Second)
		}
		last := time.Duration(0)
		for range 12 {
			c := e.begin()
			time.Sleep(time.Second)
			last = c.told(saying(saysOverload), time.Second)
			c.end()
			time.Sleep(e.held())
		}
		if last < overloadMax/2 || last > overloadMax {
			t.Errorf("the last wait is %v", last)
		}
		if f, _, _ := e.figures(); f.breaker != breakerClosed {
			t.Errorf("an overload opens the breaker: %+v", f)
		}
	})
}
