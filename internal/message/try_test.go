package message_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

func TestHandlersSnooze(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	effects := f.effects(t)
	attempts := make(chan int, 10)
	var mu sync.Mutex
	calls := 0
	q := f.queueOf(t, "tasks", message.Policy{MaxAttempts: 1})
	f.worker(t, time.Second, message.HandleBytesTx("tasks", func(ctx context.Context, tx *pg.Tx, m message.Message) error {
		attempts <- m.Attempt
		if err := insert(ctx, tx, m); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls <= 3 {
			return message.Snooze(200 * time.Millisecond)
		}
		return nil
	}))
	start := time.Now()
	f.publish(t, q, "a")
	for range 4 {
		if n := <-attempts; n != 1 {
			t.Errorf("attempt %d, though none has failed", n)
		}
	}
	f.gone(t, q)
	if n := effects(); n != 1 || time.Since(start) < 600*time.Millisecond {
		t.Errorf("%d effects after %v", n, time.Since(start))
	}
	if f.logs.FilterMessage("message snoozed").Len() != 3 || f.logs.FilterMessage("message failed").Len() != 0 {
		t.Error("snoozed is not failed")
	}
}

func TestHandlersWithAttemptsOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	fail := func(context.Context, message.Message) error { return errors.New("no") }
	q := f.queueOf(t, "tasks", message.Policy{MaxAttempts: 10, MinBackoff: 10 * time.Millisecond})
	f.worker(t, time.Second, message.HandleBytes("tasks", fail, message.MaxAttempts(2)))
	f.publish(t, q, "a")
	if letter := f.dead(t, q, 1)[0]; letter.Attempts != 2 {
		t.Errorf("a dead letter after %d attempts", letter.Attempts)
	}
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	around := func(name string) message.Middleware {
		return func(next func(context.Context, message.Message) error) func(context.Context, message.Message) error {
			return func(ctx context.Context, m message.Message) error {
				note(name + " " + string(message.FromContext(ctx).Body))
				defer note("after " + name)
				return next(ctx, m)
			}
		}
	}
	f.worker(t, time.Second, message.Around([]message.Handler{
		message.HandleBytes("tasks", func(context.Context, message.Message) error { note("handler"); return nil }),
	}, around("outer"), around("inner"))...)
	f.publish(t, name(t, "tasks"), "a")
	f.line(t, "message handled")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"outer a", "inner a", "handler", "after inner", "after outer"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
}

func TestTry(t *testing.T) {
	t.Parallel()
	returns := func(err error) message.Handler {
		return message.HandleBytes("tasks", func(context.Context, message.Message) error { return err })
	}
	limited := message.HandleBytes("tasks", func(context.Context, message.Message) error { return errors.New("no") }, message.MaxAttempts(2))
	type order struct{ ID int }
	tests := map[string]struct {
		handler message.Handler
		message message.Message
		fate    message.Fate
	}{
		"success":               {returns(nil), message.Message{}, message.Acked},
		"failure":               {returns(errors.New("no")), message.Message{}, message.TriedAgain},
		"the last attempt":      {returns(errors.New("no")), message.Message{Attempt: 10}, message.Buried},
		"its own last attempt":  {limited, message.Message{Attempt: 2}, message.Buried},
		"one before":            {limited, message.Message{Attempt: 1}, message.TriedAgain},
		"no retry helps":        {returns(errs.New(errs.InvalidArgument, "bad")), message.Message{}, message.Buried},
		"snooze":                {returns(message.Snooze(time.Hour)), message.Message{Attempt: 99}, message.Snoozed},
		"panic":                 {message.HandleBytes("tasks", func(context.Context, message.Message) error { panic("x") }), message.Message{}, message.TriedAgain},
		"a payload of its type": {message.HandleJSON("tasks", func(_ context.Context, o order) error { return message.Snooze(time.Duration(o.ID)) }), message.Message{Body: []byte(`{"id":7}`)}, message.Snoozed},
		"another payload":       {message.HandleJSON("tasks", func(context.Context, order) error { return nil }), message.Message{Body: []byte(`[`)}, message.Buried},
		"too slow": {message.HandleBytes("tasks", func(ctx context.Context, _ message.Message) error {
			<-ctx.Done()
			return message.Snooze(time.Hour) // It was too late for that.
		}, message.Timeout(time.Millisecond)), message.Message{}, message.TriedAgain},
	}
	for name, test := range tests {
		got := message.Try(t.Context(), test.handler, nil, test.message)
		if got.Fate != test.fate || (got.Err == nil) != (test.fate == message.Acked) {
			t.Errorf("%s: %+v, want the fate %d", name, got, test.fate)
		}
	}
	if got := message.Try(t.Context(), returns(message.Snooze(time.Hour)), nil, message.Message{}); got.Delay != time.Hour {
		t.Errorf("%+v", got)
	}
}

// TestTryTx has the effect of one message once.
func TestTryTx(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	effects := f.effects(t)
	h := message.HandleBytesTx("tasks", func(ctx context.Context, tx *pg.Tx, m message.Message) error {
		if auth.TenantOf(ctx) != auth.DefaultTenant || message.FromContext(ctx).ID != m.ID {
			t.Errorf("the context is of %s, for %q", auth.TenantOf(ctx), message.FromContext(ctx).ID)
		}
		return insert(ctx, tx, m)
	})
	m := message.Message{ID: "01a22323-4c9e-75da-9994-cf130066854e", Body: []byte("a")}
	for range 2 {
		if got := message.Try(t.Context(), h, f.db, m); got.Fate != message.Acked {
			t.Errorf("%+v", got)
		}
	}
	if n := effects(); n != 1 {
		t.Errorf("%d effects", n)
	}
}
