package cron_test

import (
	"strings"
	"testing"
	"time"

	"plinth/internal/cron"
	"plinth/internal/errs"
)

// FuzzParse wants of any text an error that names what is wrong, or an expression that fires as the naive matcher says.
func FuzzParse(f *testing.F) {
	for _, expr := range []string{"*/15 2-4 1,L * MON#2", "0 0 29 2 *", "@weekly", "1 2 3W JAN 5L", "5/7 * * * * *", "0 0 LW,L-3 */2 0-7/3", "60 * * * *", "* * 31 2 *", "FRI-SUN"} {
		f.Add(expr, int64(1796000000))
	}
	f.Fuzz(func(t *testing.T, expr string, at int64) {
		s, err := cron.Parse(expr)
		if err != nil {
			if !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "cron: ") {
				t.Fatalf("Parse(%q) = %v", expr, err)
			}
			return
		}
		after := time.Unix(at%(4e9), 0).UTC()
		n := naively(expr)
		got, ok := s.Next(after, time.UTC, cron.Policy{})
		if !ok {
			t.Fatalf("%q fires never after %s", expr, after)
		}
		if !n.matches(got.Time) {
			t.Fatalf("%q fires on %s, which does not match", expr, got.Time)
		}
		for u, end := after.Add(time.Second), min(got.Time.Unix(), after.Unix()+5000); u.Unix() < end; u = u.Add(time.Second) {
			if n.matches(u) {
				t.Fatalf("%q after %s: fires on %s, but matches %s", expr, after, got.Time, u)
			}
		}
		if s.Describe(cron.English) == "" || s.Describe(cron.Chinese) == "" || s.String() != expr {
			t.Fatalf("%q has no words", expr)
		}
		s.Warnings(after, time.UTC, cron.Policy{})
	})
}
