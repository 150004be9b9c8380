package message_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"plinth/internal/auth"
	"plinth/internal/message"
)

// What leaves a broker in the same database need not be on disk before its ack is. What leaves another one must be. A trigger sees how
// rows are committed.
func TestWhatLeavesTheBrokerIsOnDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		oneLog bool
		want   string
	}{{"a broker in the same database", true, "off"}, {"another broker", false, "on"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, false)
			if _, err := f.owner.Exec(t.Context(), `
				CREATE TABLE commits (what text, setting text); GRANT SELECT ON commits TO plinth_system;
				CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS
					$$ BEGIN INSERT INTO commits VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); RETURN NULL; END $$;
				CREATE CONSTRAINT TRIGGER note AFTER INSERT ON message_waiting DEFERRABLE INITIALLY DEFERRED
					FOR EACH ROW EXECUTE FUNCTION note_commit();
				CREATE CONSTRAINT TRIGGER note AFTER INSERT ON dead_letters DEFERRABLE INITIALLY DEFERRED
					FOR EACH ROW EXECUTE FUNCTION note_commit();
				CREATE CONSTRAINT TRIGGER note AFTER INSERT ON broker_messages DEFERRABLE INITIALLY DEFERRED
					FOR EACH ROW EXECUTE FUNCTION note_commit()`); err != nil {
				t.Fatal(err)
			}
			notifier := f.notifier(t)
			s := message.New(message.Config{
				DB: f.db, Handlers: f.db, System: f.system, Notifier: notifier, Broker: f.broker, Log: zap.NewNop(), OneLog: c.oneLog,
			})
			notify(t, notifier)
			run(t, s.Run)
			ctx, queue, dead := within(t), name(t, "pulled"), name(t, "dead")
			for _, q := range []message.QueueName{queue, dead} {
				if _, err := s.CreateQueue(ctx, q, message.Policy{MaxAttempts: 1}); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Publish(ctx, message.Publication{To: message.ToQueue(q), Body: []byte("a")}); err != nil {
					t.Fatal(err)
				}
			}
			pulled, err := s.Pull(ctx, message.PullRequest{Queue: queue, Max: 1, Wait: 10 * time.Second, AckDeadline: time.Minute})
			if err != nil || len(pulled) != 1 {
				t.Fatalf("pulled %d messages: %v", len(pulled), err)
			}
			handler := message.HandleBytes("dead", func(context.Context, message.Message) error { return errors.New("no") })
			run(t, message.NewWorker(message.WorkerConfig{
				Service: s, Handlers: []message.Handler{handler}, Lines: zap.NewNop(), Drain: time.Second,
				Tenants: func(context.Context) ([]auth.Tenant, <-chan struct{}, error) {
					return []auth.Tenant{{Name: auth.DefaultTenant}}, nil, nil
				},
			}).Run)
			var settings string
			for settings == "" {
				if err := f.owner.QueryRow(ctx, `SELECT coalesce(string_agg(what || ' ' || setting, ', ' ORDER BY what), '') FROM commits
					WHERE what <> 'broker_messages' HAVING count(*) = 2`).Scan(&settings); err != nil && !errors.Is(err, pgx.ErrNoRows) {
					t.Fatal(err)
				}
			}
			if want := "dead_letters " + c.want + ", message_waiting " + c.want; settings != want {
				t.Errorf("commits: %s; want %s", settings, want)
			}
			if r := s.PublishBatch(ctx, []message.Publication{{To: message.ToQueue(queue), Body: []byte("b")}}); r[0].Err != nil {
				t.Fatal(r[0].Err)
			}
			const relaxed = `SELECT count(*) FROM commits WHERE what = 'broker_messages' AND setting = 'off'`
			if n := f.count(t, relaxed); n != 0 {
				t.Errorf("%d messages of clients are not on disk", n)
			}
			run(t, s.Relay)
			if _, err := s.Publish(ctx, message.Publication{To: message.ToQueue(queue), Body: []byte("c"), Delay: time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			for f.count(t, relaxed) == 0 { // What a relay sends is still a row until it is.
				if ctx.Err() != nil {
					t.Fatal("no message of the relay")
				}
			}
		})
	}
}
