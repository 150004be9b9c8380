package lock_test

import (
	"os"
	"regexp"
	"testing"

	"plinth/internal/pg/pgtest"
)

// The statements of docs/locks.md refuse a stale writer as they stand there.
func TestFencingOfTheDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/locks.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of SQL", len(blocks))
	}
	databaseURL := pgtest.New(t)
	n, ctx, owner := newNode(t, databaseURL), as(t, "acme"), pgtest.Owner(t, databaseURL)
	exec(t, databaseURL, string(blocks[0][1]))
	write := func(body string, token int64) int64 {
		tag, err := owner.Exec(ctx, string(blocks[1][1]), "17", body, token)
		if err != nil {
			t.Fatal(err)
		}
		return tag.RowsAffected()
	}
	first := n.acquire(t, ctx, request(t, "one"))
	if write("one", first.Token) != 1 {
		t.Error("the holder is refused")
	}
	exec(t, databaseURL, `UPDATE locks SET expires_at = now()`)
	second := n.acquire(t, ctx, request(t, "two"))
	if write("two", second.Token) != 1 || write("two again", second.Token) != 1 {
		t.Error("the next holder is refused")
	}
	if write("late", first.Token) != 0 {
		t.Error("the stale writer is not refused")
	}
	if body := scalar[string](t, databaseURL, `SELECT body FROM reports`); body != "two again" {
		t.Errorf("it says %q", body)
	}
}
