package tenant

import (
	"context"
	"sync"
	"testing"
	"time"

	"plinth/internal/pg/pgtest"
)

func (p process) lastUsed(t testing.TB, id string) time.Time {
	t.Helper()
	k, err := p.GetApiKey(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return k.LastUsedAt
}

// Uses are written by Run, not by the calls, and to the minute.
func TestUsesAreWritten(t *testing.T) {
	t.Parallel()
	p := newProcess(t, pgtest.New(t), 4)
	secret, id := p.key(t, time.Time{})
	_, unused := p.key(t, time.Time{})
	p.is(t, secret, 0)
	p.flushUsed(t.Context())
	first := p.lastUsed(t, id)
	if first.IsZero() || first.Sub(p.now()).Abs() > time.Millisecond {
		t.Errorf("used at %v, now it is %v", first, p.now())
	}
	p.pass(usedEvery - 1)
	p.is(t, secret, 0)
	if n := len(p.used.take()); n != 0 {
		t.Errorf("%d uses within the minute are noted", n)
	}
	p.pass(1)
	p.is(t, secret, 0)
	if !p.lastUsed(t, id).Equal(first) {
		t.Error("the call itself wrote")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { p.writeUsed(ctx, time.Millisecond); close(ended) }()
	await(t, "written", func() bool { return p.lastUsed(t, id).After(first) })
	p.pass(usedEvery)
	cancel()
	<-ended
	if !p.lastUsed(t, unused).IsZero() {
		t.Error("a key that was never used was")
	}
}

// Uses that cannot be written are kept, and later ones replace them.
func TestUsesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	p := newProcess(t, url, 4)
	secret, id := p.key(t, time.Time{})
	p.is(t, secret, 0)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	p.flushUsed(cancelled) // It writes although its context has ended, as at the end of a process.
	if p.lastUsed(t, id).IsZero() {
		t.Error("it is not written at the end")
	}
	at := p.now().Add(time.Minute)
	p.used.add(id, at)
	p.used.add(id, at.Add(-time.Minute))
	p.db.Close()
	p.flushUsed(t.Context())
	if got := p.used.take()[id]; !got.Equal(at) {
		t.Errorf("kept is %v, want %v", got, at)
	}
	other := newProcess(t, url, 4)
	other.used.add(id, at)
	other.flushUsed(t.Context())
	other.used.add(id, at.Add(-time.Hour))
	other.flushUsed(t.Context())
	if got := other.lastUsed(t, id); got.Sub(at).Abs() > time.Millisecond {
		t.Errorf("written is %v, want %v", got, at)
	}
}

// Processes that write the same keys at the same time do not lock each other out.
func TestProcessesWriteUses(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	a, b := newProcess(t, url, 2), newProcess(t, url, 2)
	var ids []string
	for range 100 {
		_, id := a.key(t, time.Time{})
		ids = append(ids, id)
	}
	var writing sync.WaitGroup
	for _, p := range []process{a, b} {
		writing.Go(func() {
			for range 50 {
				p.pass(time.Minute)
				for _, id := range ids {
					p.used.add(id, p.now())
				}
				p.flushUsed(context.Background())
				if n := len(p.used.take()); n != 0 {
					t.Errorf("%d could not be written", n)
					return
				}
			}
		})
	}
	writing.Wait()
}
