package message_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/message"
)

func (f fixture) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	if err := f.system.QueryRow(within(t), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// letters inserts n dead letters of a queue, three for each time, and returns their ids, the latest failure first.
func (f fixture) letters(t *testing.T, q message.QueueName, n int) (ids []string) {
	t.Helper()
	return f.lettersOf(t, auth.DefaultTenant, q, n)
}

func (f fixture) lettersOf(t *testing.T, tenant string, q message.QueueName, n int) (ids []string) {
	t.Helper()
	rows, err := f.db.Query(as(t, tenant), `
		WITH made AS (
			INSERT INTO dead_letters (tenant, id, queue, message_id, reason, attempts, first_failed_at, last_failed_at, headers, attributes, body)
			SELECT $3, gen_random_uuid(), $1, gen_random_uuid(), 'because of ' || i, 3, now() - interval '2 hours',
				now() - interval '1 second' * (i / 3), '{"traceparent": "trace"}', '{"colour": "red"}', convert_to('body ' || i, 'UTF8')
			FROM generate_series(1, $2::int) AS i
			RETURNING id, last_failed_at)
		SELECT id::text FROM made ORDER BY last_failed_at DESC, id DESC`, q.String(), n, tenant)
	if err != nil {
		t.Fatal(err)
	}
	ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// letter inserts one dead letter.
func (f fixture) letter(t *testing.T, q message.QueueName, reason string, failed time.Time, size int) (id string) {
	t.Helper()
	id = uuid.NewString()
	f.exec(t, `
		INSERT INTO dead_letters (tenant, id, queue, message_id, reason, attempts, first_failed_at, last_failed_at, headers, attributes, body)
		VALUES ('default', $1::text::uuid, $2, gen_random_uuid(), $3, 3, $4, $4, '{}', '{}', $5)`,
		id, q.String(), reason, failed, make([]byte, size))
	return id
}

// list returns the ids of all pages.
func (f fixture) list(t *testing.T, q message.QueueName, filter message.Filter, size int) (ids []string, pages []int) {
	t.Helper()
	token := ""
	for {
		letters, next, err := f.ListDeadLetters(within(t), q, filter, size, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range letters {
			ids = append(ids, d.ID)
		}
		pages = append(pages, len(letters))
		if token = next; next == "" {
			return ids, pages
		}
	}
}

func TestDeadLettersInPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	want := f.letters(t, q, 25)
	f.letters(t, f.queue(t, "other"), 5)
	for _, size := range []int{0, 1, 4, 24, 25, 26} {
		if ids, pages := f.list(t, q, message.Filter{}, size); !slices.Equal(ids, want) {
			t.Errorf("pages of %d have %v letters in an order that is not that of their failures", size, pages)
		}
	}
	if _, pages := f.list(t, q, message.Filter{}, 5); fmt.Sprint(pages) != "[5 5 5 5 5]" {
		t.Errorf("pages %v", pages)
	}
	if letters, next, err := f.ListDeadLetters(within(t), f.queue(t, "empty"), message.Filter{}, 5, ""); len(letters) != 0 || next != "" || err != nil {
		t.Errorf("%v %q %v", letters, next, err)
	}
	if _, _, err := f.ListDeadLetters(within(t), name(t, "none"), message.Filter{}, 5, ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown queue: %v", err)
	}
}

func TestDeadLettersByFilter(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	now := time.Now().Truncate(time.Microsecond)
	reasons := []string{"100% sure", "100 percent", `back\\slash`, `back\slash`, "under_score", "underXscore", "TimeOut of Ärger", ""}
	for i, reason := range reasons {
		f.letter(t, q, reason, now.Add(time.Duration(-i)*time.Minute), 1)
	}
	for _, test := range []struct {
		filter message.Filter
		want   []string
	}{
		{message.Filter{}, reasons},
		{message.Filter{Reason: "100%"}, reasons[:1]},
		{message.Filter{Reason: "00"}, reasons[:2]},
		{message.Filter{Reason: "r_s"}, reasons[4:5]},
		{message.Filter{Reason: `\\`}, reasons[2:3]},
		{message.Filter{Reason: `K\s`}, reasons[3:4]},
		{message.Filter{Reason: "tIMEoUT"}, reasons[6:7]},
		{message.Filter{Reason: "%"}, reasons[:1]},
		{message.Filter{Reason: "' OR true --"}, nil},
		{message.Filter{Reason: "\x00"}, nil},
		{message.Filter{FailedAfter: now.Add(-2 * time.Minute)}, reasons[:3]},
		{message.Filter{FailedAfter: now.Add(-2*time.Minute + time.Microsecond)}, reasons[:2]},
		{message.Filter{FailedBefore: now.Add(-6 * time.Minute)}, reasons[7:]},
		{message.Filter{FailedBefore: now.Add(-6*time.Minute + time.Microsecond)}, reasons[6:]},
		{message.Filter{Reason: "s", FailedAfter: now.Add(-5 * time.Minute), FailedBefore: now.Add(-time.Minute)}, reasons[2:6]},
	} {
		letters, next, err := f.ListDeadLetters(within(t), q, test.filter, 0, "")
		var got []string
		for _, d := range letters {
			got = append(got, d.Reason)
		}
		if err != nil || next != "" || !slices.Equal(got, test.want) {
			t.Errorf("%+v: %q %q %v", test.filter, got, next, err)
		}
	}
}

func TestTokenOfDeadLettersPinsItsFilter(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q, other := f.queue(t, "orders"), f.queue(t, "other")
	f.letters(t, q, 9)
	f.letters(t, other, 9)
	filter := message.Filter{Reason: "because", FailedAfter: time.Now().Add(-time.Hour)}
	_, token, err := f.ListDeadLetters(within(t), q, filter, 3, "")
	if err != nil || token == "" {
		t.Fatalf("%q %v", token, err)
	}
	if page, _, err := f.ListDeadLetters(within(t), q, filter, 5, token); len(page) != 5 || err != nil {
		t.Errorf("%d letters, %v", len(page), err)
	}
	refused := func(q message.QueueName, filter message.Filter, token string) {
		t.Helper()
		if _, _, err := f.ListDeadLetters(within(t), q, filter, 3, token); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%v %+v %q: %v", q, filter, token, err)
		}
	}
	refused(other, filter, token)
	refused(q, message.Filter{}, token)
	refused(q, message.Filter{Reason: "Because", FailedAfter: filter.FailedAfter}, token)
	refused(q, message.Filter{Reason: filter.Reason, FailedBefore: filter.FailedAfter}, token)
	for _, bad := range []string{"?", "AAAA", token[:40], token + "AAAA"} {
		refused(q, filter, bad)
	}
	if _, _, err := f.ListDeadLetterOperations(within(t), q, 3, token); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a token of another list: %v", err)
	}
}

func TestPagesOfDeadLettersEndEarly(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	var want []string
	for i, size := range []int{900_000, 900_000, 900_000, message.MaxBytes, 900_000, 900_000, 10} {
		want = append(want, f.letter(t, q, strings.Repeat("r", 1024), time.Now().Add(time.Duration(-i)*time.Minute), size))
	}
	if ids, pages := f.list(t, q, message.Filter{}, 0); !slices.Equal(ids, want) || fmt.Sprint(pages) != "[2 1 1 3]" {
		t.Errorf("pages of %v", pages)
	}
}

// TestDeadLetterRoundTrip has a message fail for good, and redrives it.
func TestDeadLetterRoundTrip(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.worker(t, time.Second)
	q := name(t, "orders")
	if _, err := f.CreateQueue(within(t), q, message.Policy{MaxAttempts: 1}); err != nil {
		t.Fatal(err)
	}
	attributes := map[string]string{"colour": "red", "nul": "\x00"}
	receipt, err := f.Publish(within(t), message.Publication{To: message.ToQueue(q), Body: []byte("a\x00b"), Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	sub := f.subscribe(t, q, 1, long)
	m := one(t, sub)
	sub.Nack([]message.Nack{{ID: m.ID, Reason: "no good"}})
	var letters []message.DeadLetter
	eventually(t, "a dead letter", func() bool {
		letters, _, err = f.ListDeadLetters(within(t), q, message.Filter{}, 0, "")
		return len(letters) == 1
	})
	got, err := f.GetDeadLetter(within(t), letters[0].ID)
	if err != nil || got.Queue != q || got.MessageID != receipt.ID || !strings.Contains(got.Reason, "no good") || got.Attempts != 1 ||
		string(got.Body) != "a\x00b" || fmt.Sprint(got.Attributes) != fmt.Sprint(attributes) || time.Since(got.LastFailedAt) > time.Minute ||
		got.FirstFailedAt.After(got.LastFailedAt) || !got.PublishedAt().Equal(m.PublishedAt()) {
		t.Errorf("%+v %v", got, err)
	}
	if _, _, err := f.RedriveDeadLetters(within(t), q, message.Choice{IDs: []string{got.ID}}, 0); err != nil {
		t.Fatal(err)
	}
	again := one(t, sub)
	if again.ID != m.ID || again.Attempt != 1 || string(again.Body) != "a\x00b" || fmt.Sprint(again.Attributes) != fmt.Sprint(attributes) {
		t.Errorf("redriven %+v, want it as it was published", again)
	}
	for id, kind := range map[string]errs.Kind{got.ID: errs.NotFound, "x": errs.InvalidArgument} {
		if _, err := f.GetDeadLetter(within(t), id); !errs.Is(err, kind) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestReasonThatFewMatch looks for one dead letter behind very many with another reason: no call reads them all.
func TestReasonThatFewMatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	q := f.queue(t, "orders")
	f.letters(t, q, 70_000)
	want := f.letter(t, q, "the needle", time.Now().Add(-24*time.Hour), 1)
	ids, pages := f.list(t, q, message.Filter{Reason: "needle"}, 10)
	if !slices.Equal(ids, []string{want}) || len(pages) < 2 || pages[0] != 0 {
		t.Errorf("%v in pages of %v", ids, pages)
	}
	if ids, pages := f.list(t, q, message.Filter{Reason: "BECAUSE OF 699"}, 10); len(ids) != 111 || pages[0] != 10 {
		t.Errorf("%d in pages of %v", len(ids), pages)
	}
}
