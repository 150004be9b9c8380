package pg_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/pg/pgtest"
)

// TestReplies goes through every class of SQLSTATE, and every code of the classes that are about the server: what callers get,
// and how many of two connections are left.
func TestReplies(t *testing.T) {
	t.Parallel()
	const kept, spent, ended = 2, 1, 0
	db := open(t, pg.Config{URL: pgtest.New(t), MaxConns: 2})
	for _, test := range []struct {
		codes []string
		kind  errs.Kind
		left  int
	}{
		{[]string{"08000", "08001", "08003", "08004", "08006", "08007", "08P01"}, errs.Unavailable, spent},
		{[]string{"22021", "22P05"}, errs.InvalidArgument, kept},
		{[]string{"25006"}, errs.Unavailable, ended},
		{[]string{"25P03", "25P04"}, errs.Unavailable, spent},
		{[]string{"40001", "40P01"}, errs.Aborted, kept},
		{[]string{"40003"}, errs.Unavailable, spent},
		{[]string{"42P01", "42703"}, errs.Unavailable, kept},
		{[]string{"53000", "53100", "53200", "53300", "53400"}, errs.Unavailable, spent},
		{[]string{"55P03", "57014"}, errs.Unavailable, kept},
		{[]string{"57000", "57P01", "57P02", "57P03", "57P04"}, errs.Unavailable, ended},
		{[]string{"57P05"}, errs.Unavailable, spent},
		{[]string{"58000", "58030", "58P01", "58P02"}, errs.Unavailable, spent},
		{[]string{
			"03000", "09000", "0A000", "0B000", "0F000", "0L000", "0P000", "0Z000", "20000", "21000", "22000", "22023", "22P02",
			"23000", "23502", "23503", "23505", "23514", "23P01", "24000", "25000", "25001", "25002", "25008", "25P01", "25P02", "26000",
			"27000", "28000", "28P01", "2B000", "2BP01", "2D000", "2F000", "34000", "38000", "39000", "3B000", "3D000", "3F000", "40000",
			"40002", "42000", "42501", "42601", "42804", "42883", "42P07", "44000", "54000", "54001", "54011", "54023", "55000", "55006",
			"55P02", "55P04", "72000", "F0000", "F0001", "HV000", "P0000", "P0001", "P0002", "P0003", "P0004", "XX000", "XX001", "XX002",
		}, errs.Internal, kept},
	} {
		for _, code := range test.codes {
			before := backends(t, db)
			raise := `DO $$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '` + code + `'; END $$`
			err := db.InTx(patient(t), func(tx *pg.Tx) error { _, err := tx.Exec(patient(t), raise); return err })
			var reply *pgconn.PgError
			if !errors.As(err, &reply) || reply.Code != code || errs.KindOf(err) != test.kind {
				t.Errorf("%s: %v of kind %d, want %d", code, err, errs.KindOf(err), test.kind)
			}
			after, left := backends(t, db), 0
			for _, pid := range before {
				if slices.Contains(after, pid) {
					left++
				}
			}
			if left != test.left {
				t.Errorf("%s leaves %d connections, want %d", code, left, test.left)
			}
			if _, err := db.Exec(patient(t), raise); errs.KindOf(err) != test.kind {
				t.Errorf("%s, alone: %v of kind %d, want %d", code, err, errs.KindOf(err), test.kind)
			}
		}
	}
}

// backends returns the process ids of two connections of the pool.
func backends(t *testing.T, db *pg.DB) []int {
	t.Helper()
	const pid = `SELECT pg_backend_pid()`
	var pids []int
	if err := db.InTx(patient(t), func(tx *pg.Tx) error {
		pids = []int{scalar[int](t, tx, pid), scalar[int](t, db, pid)}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return pids
}
