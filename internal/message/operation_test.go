package message_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"plinth/internal/errs"
	"plinth/internal/message"
)

var all = message.Choice{Filter: &message.Filter{}}

// left counts dead letters and waiting messages of a queue.
func (f fixture) left(t *testing.T, q message.QueueName) (letters, waiting int) {
	t.Helper()
	if err := f.db.QueryRow(within(t), `SELECT (SELECT count(*) FROM dead_letters WHERE queue = $1),
		(SELECT count(DISTINCT id) FROM message_waiting WHERE queue = $1)`, q.String()).Scan(&letters, &waiting); err != nil {
		t.Fatal(err)
	}
	return letters, waiting
}

// holds checks how many dead letters and waiting messages a queue has.
func (f fixture) holds(t *testing.T, q message.QueueName, wantLetters, wantWaiting int) {
	t.Helper()
	if letters, waiting := f.left(t, q); letters != wantLetters || waiting != wantWaiting {
		t.Errorf("%v has %d dead letters and %d messages that wait, want %d and %d", q, letters, waiting, wantLetters, wantWaiting)
	}
}

func (f fixture) redrive(t *testing.T, q message.QueueName, which message.Choice, maxPerSecond int) (message.Operation, message.Skipped) {
	t.Helper()
	op, skipped, err := f.RedriveDeadLetters(within(t), q, which, maxPerSecond)
	if err != nil {
		t.Fatal(err)
	}
	return op, skipped
}

// work does what the workers do, until nothing is ready.
func (f fixture) work(t *testing.T) {
	t.Helper()
	for {
		progress, err := f.StepAll(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if !progress {
			return
		}
	}
}

func (f fixture) operation(t *testing.T, id string) message.Operation {
	t.Helper()
	op, err := f.GetDeadLetterOperation(within(t), id)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

func TestChoice(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 1)
	for name, which := range map[string]message.Choice{
		"nothing":         {},
		"no ids":          {IDs: []string{}},
		"two":             {IDs: []string{uuid.NewString()}, Filter: &message.Filter{}},
		"two others":      {Token: uuid.NewString(), Filter: &message.Filter{}},
		"dry run again":   {Token: uuid.NewString(), DryRun: true},
		"an id that is x": {IDs: []string{"x"}},
	} {
		if _, _, err := f.RedriveDeadLetters(within(t), q, which, 0); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("redrive of %s: %v", name, err)
		}
		if _, _, err := f.PurgeDeadLetters(within(t), q, which); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("purge of %s: %v", name, err)
		}
	}
	if _, _, err := f.PurgeDeadLetters(within(t), name(t, "none"), all); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown queue: %v", err)
	}
	f.holds(t, q, 1, 0)
}

func TestRedriveByIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	ids, others := f.letters(t, q, 10), f.letters(t, other, 1)
	d, err := f.GetDeadLetter(within(t), ids[3])
	if err != nil {
		t.Fatal(err)
	}
	asked := []string{ids[3], ids[0], ids[3], others[0], uuid.NewString()}
	op, skipped := f.redrive(t, q, message.Choice{IDs: asked}, 0)
	if op.State != message.Done || op.Kind != message.Redrive || op.Queue != q || op.Total != 2 || op.Done != 2 || op.Skipped != 0 ||
		op.Principal != "anonymous" || time.Since(op.CreatedAt) > time.Minute || op.EndedAt.Before(op.CreatedAt) {
		t.Errorf("%+v", op)
	}
	if skipped != (message.Skipped{NotFound: 2}) {
		t.Errorf("skipped %+v", skipped)
	}
	f.holds(t, q, 8, 2)
	f.holds(t, other, 1, 0)
	var got string
	err = f.db.QueryRow(within(t), `SELECT concat_ws(' ', attempts, '"' || reason || '"', first_failed_at IS NULL, due_at <= clock_timestamp(),
		topic = '', convert_from(body, 'UTF8'), attributes, headers) FROM message_waiting WHERE id = $1::text::uuid`, d.MessageID).Scan(&got)
	if want := fmt.Sprintf(`0 "" t t t %s {"colour": "red"} {"traceparent": "trace"}`, d.Body); err != nil || got != want {
		t.Errorf("it waits as %s, want %s, %v", got, want, err)
	}
	if got := f.operation(t, op.ID); got != op {
		t.Errorf("%+v is kept, want %+v", got, op)
	}
}

func TestRedriveJoinsWhatWaits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 1)
	f.exec(t, `INSERT INTO message_waiting (tenant, id, queue, due_at, attempts, reason, body)
		SELECT tenant, message_id, queue, now() + interval '1 hour', 2, 'why', body FROM dead_letters`)
	f.redrive(t, q, all, 0)
	f.holds(t, q, 0, 1)
	if n := f.count(t, `SELECT count(*) FROM message_waiting WHERE attempts = 0 AND reason = '' AND due_at <= clock_timestamp()`); n != 1 {
		t.Error("it waits as it did before")
	}
}

func TestPurgeDeadLetters(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	f.letters(t, q, 5)
	f.letters(t, other, 5)
	f.letter(t, q, "special", time.Now(), 1)
	op, _, err := f.PurgeDeadLetters(within(t), q, message.Choice{Filter: &message.Filter{Reason: "because"}})
	if err != nil || op.State != message.Done || op.Kind != message.Purge || op.Done != 5 {
		t.Errorf("%+v %v", op, err)
	}
	f.holds(t, q, 1, 0)
	f.holds(t, other, 5, 0)
	op, skipped, err := f.PurgeDeadLetters(within(t), q, message.Choice{Filter: &message.Filter{Reason: "because"}})
	if err != nil || op.State != message.Done || op.Total != 0 || op.EndedAt.IsZero() || skipped != (message.Skipped{}) {
		t.Errorf("a purge of nothing: %+v %+v %v", op, skipped, err)
	}
}

func TestDryRunPinsItsSet(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	ids := f.letters(t, q, 10)
	f.letters(t, other, 1)
	dry := message.Choice{Filter: &message.Filter{}, DryRun: true}
	plan, _ := f.redrive(t, q, dry, 5)
	if plan.State != message.Planned || plan.Total != 10 || !plan.EndedAt.IsZero() {
		t.Errorf("%+v", plan)
	}
	f.work(t)
	f.holds(t, q, 10, 0)

	// The pinned set does not change meanwhile, except that dead letters may disappear.
	f.letter(t, q, "late", time.Now(), 1)
	if op, skipped, err := f.PurgeDeadLetters(within(t), q, message.Choice{IDs: ids[:1]}); op.Done != 1 || skipped.InOperation != 0 || err != nil {
		t.Errorf("%+v %+v %v: a plan holds nothing", op, skipped, err)
	}
	token := message.Choice{Token: plan.ID}
	if _, _, err := f.PurgeDeadLetters(within(t), q, token); !errs.Is(err, errs.NotFound) {
		t.Errorf("a token of another kind: %v", err)
	}
	if _, _, err := f.RedriveDeadLetters(within(t), other, token, 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("a token of another queue: %v", err)
	}
	op, skipped := f.redrive(t, q, token, 0)
	if op.ID != plan.ID || op.State != message.Done || op.Total != 10 || op.Done != 9 || op.Skipped != 1 || skipped != (message.Skipped{}) ||
		op.MaxPerSecond != 5 || !op.CreatedAt.After(plan.CreatedAt) {
		t.Errorf("%+v %+v", op, skipped)
	}
	f.holds(t, q, 1, 9)
	f.holds(t, other, 1, 0)
	for _, kind := range []string{"again", "and again"} {
		if _, _, err := f.RedriveDeadLetters(within(t), q, token, 0); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("a token used %s: %v", kind, err)
		}
	}
	if _, _, err := f.PurgeDeadLetters(within(t), q, token); !errs.Is(err, errs.NotFound) {
		t.Errorf("a used token of another kind: %v", err)
	}
	for _, bad := range []string{"x", uuid.NewString()} {
		if _, _, err := f.RedriveDeadLetters(within(t), q, message.Choice{Token: bad}, 0); !errs.Is(err, errs.NotFound) {
			t.Errorf("token %q: %v", bad, err)
		}
	}
}

func TestDryRunIsGoodForAnHour(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 1)
	for age, kind := range map[string]errs.Kind{"61 minutes": errs.NotFound, "59 minutes": errs.Internal} {
		plan, _ := f.redrive(t, q, message.Choice{Filter: &message.Filter{}, DryRun: true}, 0)
		f.exec(t, `UPDATE dead_letter_operations SET created_at = now() - $2::text::interval WHERE id = $1::text::uuid`, plan.ID, age)
		_, _, err := f.RedriveDeadLetters(within(t), q, message.Choice{Token: plan.ID}, 0)
		if (err == nil) != (kind == errs.Internal) || err != nil && !errs.Is(err, kind) {
			t.Errorf("after %s: %v", age, err)
		}
	}
}

// TestOneRedriveOfAToken has many calls use the same token at the same time.
func TestOneRedriveOfAToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 500)
	plan, _ := f.redrive(t, q, message.Choice{Filter: &message.Filter{}, DryRun: true}, 0)
	results := make(chan error, 5)
	for range cap(results) {
		go func() {
			_, _, err := f.RedriveDeadLetters(within(t), q, message.Choice{Token: plan.ID}, 0)
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		if err := <-results; err == nil {
			won++
		} else if !errs.Is(err, errs.FailedPrecondition) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of them redrove", won)
	}
	f.holds(t, q, 0, 500)
	if op := f.operation(t, plan.ID); op.Done != 500 || op.Skipped != 0 {
		t.Errorf("%+v", op)
	}
}

// TestOneRedriveOfALetter has many calls redrive the same dead letters at the same time.
func TestOneRedriveOfALetter(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 300)
	results := make(chan message.Operation, 5)
	for range cap(results) {
		go func() {
			op, _, err := f.RedriveDeadLetters(within(t), q, all, 0)
			if err != nil && !errs.Is(err, errs.Aborted) {
				t.Error(err)
			}
			results <- op
		}()
	}
	done := int64(0)
	for range cap(results) {
		op := <-results
		done += op.Done
		if op.Done+op.Skipped != op.Total {
			t.Errorf("%+v", op)
		}
	}
	if done != 300 {
		t.Errorf("%d are said to be redriven", done)
	}
	f.holds(t, q, 0, 300)
}

// TestRedriveIsAllOrNone makes the last of 1,000 messages fail.
func TestRedriveIsAllOrNone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	ids := f.letters(t, q, 1000)
	f.schema(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'`)
	first, err := f.GetDeadLetter(within(t), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	f.schema(t, `CREATE TRIGGER refuse BEFORE INSERT ON message_waiting FOR EACH ROW WHEN (NEW.id = '`+first.MessageID+`') EXECUTE FUNCTION refuse()`)
	if op, _, err := f.RedriveDeadLetters(within(t), q, all, 0); err == nil {
		t.Errorf("%+v", op)
	}
	f.holds(t, q, 1000, 0)
	if n := f.count(t, `SELECT count(*) FROM dead_letter_operations`); n != 0 {
		t.Errorf("%d operations are kept", n)
	}
	f.schema(t, `DROP TRIGGER refuse ON message_waiting`)
	if op, _ := f.redrive(t, q, all, 0); op.State != message.Done || op.Done != 1000 {
		t.Errorf("%+v", op)
	}
	f.holds(t, q, 0, 1000)
}

// spacing returns when the first and last messages of a queue are due, relative to now, and the least time between two.
func (f fixture) spacing(t *testing.T, q message.QueueName) (first, last, least time.Duration) {
	t.Helper()
	err := f.db.QueryRow(within(t), `
		SELECT min(due_at) - clock_timestamp(), max(due_at) - clock_timestamp(), min(gap)
		FROM (SELECT due_at, due_at - lag(due_at) OVER (ORDER BY due_at) AS gap FROM message_waiting WHERE queue = $1) AS w`, q.String()).
		Scan(&first, &last, &least)
	if err != nil {
		t.Fatal(err)
	}
	return first, last, least
}

func TestLimitOfARedrive(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 300)
	op, _ := f.redrive(t, q, all, 10)
	if op.State != message.Done || op.MaxPerSecond != 10 {
		t.Errorf("%+v", op)
	}
	first, last, least := f.spacing(t, q)
	if first > 0 || last > 30*time.Second || last < 25*time.Second || least < 100*time.Millisecond {
		t.Errorf("due from %v to %v, %v apart or more", first, last, least)
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	var want []string
	for range 7 {
		op, _ := f.redrive(t, q, all, 0)
		want = slices.Insert(want, 0, op.ID)
	}
	f.redrive(t, other, all, 0)
	var got []string
	token := ""
	for {
		page, next, err := f.ListDeadLetterOperations(within(t), q, 3, token)
		if err != nil || len(page) > 3 {
			t.Fatalf("%v %v", page, err)
		}
		for _, op := range page {
			got = append(got, op.ID)
		}
		if next == "" {
			break
		}
		if _, _, err := f.ListDeadLetterOperations(within(t), other, 3, next); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("a token of another queue: %v", err)
		}
		token = next
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, _, err := f.ListDeadLetterOperations(within(t), name(t, "none"), 3, ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown queue: %v", err)
	}
	for id, kind := range map[string]errs.Kind{uuid.NewString(): errs.NotFound, "x": errs.InvalidArgument} {
		if _, err := f.GetDeadLetterOperation(within(t), id); !errs.Is(err, kind) {
			t.Errorf("%s: %v", id, err)
		}
	}
}
