package channel_test

import (
	"errors"
	"testing"

	"plinth/internal/channel"
	"plinth/internal/kv/kvtest"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// What a transaction publishes comes once it is committed, and never if it is not.
func TestPublishTx(t *testing.T) {
	t.Parallel()
	db, err := pg.Open(t.Context(), pg.Config{URL: pgtest.New(t), MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	s, _ := server{url: kvtest.New(t, nil).URL}.open(t)
	ctx := newTenant(t)
	l, _ := subscribe(t, ctx, s, channel.Subscription{Channels: names(t, "c")})
	undone := errors.New("undone")
	publishTx := func(text string, result error) error {
		return db.InTx(ctx, func(tx *pg.Tx) error {
			if err := s.PublishTx(ctx, tx, channel.Publication{Channel: name(t, "c"), Payload: []byte(text)}); err != nil {
				return err
			}
			publish(t, ctx, s, "c", "before")
			return result
		})
	}
	if err := publishTx("never", undone); !errors.Is(err, undone) {
		t.Fatal(err)
	}
	if err := publishTx("committed", nil); err != nil {
		t.Fatal(err)
	}
	l.messages("before", "before", "committed")
	if err := db.InTx(ctx, func(tx *pg.Tx) error {
		return s.PublishTx(ctx, tx, channel.Publication{Channel: name(t, "c"), Payload: make([]byte, 1<<20)})
	}); err == nil {
		t.Error("a payload that is too large")
	}
}
