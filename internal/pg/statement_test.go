package pg_test

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/auth"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// TestStatements has quick and slow statements, in a transaction and alone. Their values are in no line.
func TestStatements(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a"
	core, logs := observer.New(zap.DebugLevel)
	db, err := pg.Open(t.Context(), pg.Config{URL: pgtest.New(t), MaxConns: 2, Log: zap.New(core), Slow: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := auth.AsService(t.Context(), "tenant-"+canary)
	var got string
	err = db.InTx(ctx, func(tx *pg.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT $1::text,
			pg_sleep(0.4)::text`, canary).Scan(&got, new(string)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT 'x' || $1::text`, canary).Scan(&got)
	})
	if err == nil {
		err = db.QueryRow(ctx, `SELECT 'alone' || $1::text`, canary).Scan(&got)
	}
	if err != nil || got != "alone"+canary {
		t.Fatal(got, err)
	}
	if _, err := db.Exec(ctx, `SELECT $1::int / 0`, 7531); err == nil {
		t.Error("a division by zero succeeded")
	}
	slow := logs.FilterMessage("slow statement").All()
	if len(slow) != 1 || slow[0].Level != zap.WarnLevel || slow[0].ContextMap()["sql"] != "SELECT $1::text, pg_sleep(0.4)::text" ||
		slow[0].ContextMap()["duration_ms"].(time.Duration) < 300*time.Millisecond {
		t.Errorf("slow are %v", slow)
	}
	seen := map[string]int{}
	for _, line := range logs.All() {
		text, _ := line.ContextMap()["sql"].(string)
		seen[text]++
		if line.Message == "statement" && line.Level != zap.DebugLevel {
			t.Errorf("%v", line)
		}
		for key, value := range line.ContextMap() {
			if v, ok := value.(string); ok && (strings.Contains(v, canary) || strings.Contains(v, "7531")) {
				t.Errorf("%s shows a value: %s", key, v)
			}
		}
	}
	for _, want := range []string{"BEGIN", "SELECT 'x' || $1::text", "SELECT 'alone' || $1::text", "SELECT $1::int / 0"} {
		if seen[want] == 0 {
			t.Errorf("no line for %q; there are %v", want, seen)
		}
	}
}
