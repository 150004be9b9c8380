package cron_test

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"plinth/internal/cron"
	"plinth/internal/errs"
)

// TestLeapYearsEnd walks over the end of leap years, whose last day Time.ZoneBounds gives an end that is not after the instant
// (golang/go#81583), in zones whose data has no changes to come but a rule, as that of Go's own database.
func TestLeapYearsEnd(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{"CET-1CEST,M3.5.0,M10.5.0/3", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"} {
		loc := zoneOf(t, rule)
		s := parse(t, "0 12 31 12 *")
		at := time.Date(2028, 12, 1, 0, 0, 0, 0, time.UTC)
		for year := 2028; year < 2100; year++ {
			got := within(t, func() (cron.Fire, bool) { return s.Next(at, loc, cron.Policy{}) })
			if want := time.Date(year, 12, 31, 12, 0, 0, 0, loc); !got.Time.Equal(want) {
				t.Fatalf("after %s in %s: %s, want %s", at, rule, got.Time, want)
			}
			at = got.Time
		}
		for range s.Skipped(time.Date(2028, 12, 30, 0, 0, 0, 0, time.UTC), time.Date(2029, 2, 1, 0, 0, 0, 0, time.UTC), loc, cron.Policy{}) {
			t.Error("nothing is skipped in January")
		}
		cron.ZoneVersion(loc)
	}
}

// within fails the test where f does not return in ten seconds.
func within(t *testing.T, f func() (cron.Fire, bool)) cron.Fire {
	t.Helper()
	done := make(chan cron.Fire)
	go func() {
		fire, _ := f()
		done <- fire
	}()
	select {
	case fire := <-done:
		return fire
	case <-time.After(10 * time.Second):
		t.Fatal("the walk over the zone does not end")
		return cron.Fire{}
	}
}

// zoneOf returns a zone that has a rule of POSIX's TZ and nothing else.
func zoneOf(t *testing.T, rule string) *time.Location {
	t.Helper()
	header := func(types, chars uint32) []byte {
		b := append([]byte("TZif2"), make([]byte, 15)...)
		for _, n := range []uint32{0, 0, 0, 0, types, chars} {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return b
	}
	data := append(header(1, 4), 0, 0, 0, 0, 0, 0, 'X', 'X', 'X', 0)
	data = append(append(data, header(1, 4)...), 0, 0, 0, 0, 0, 0, 'X', 'X', 'X', 0)
	loc, err := time.LoadLocationFromTZData("Test/Rule", append(data, "\n"+rule+"\n"...))
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func parse(t testing.TB, expr string) cron.Spec {
	t.Helper()
	s, err := cron.Parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func load(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := new(cron.Zones).Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// TestDays compares the days of random expressions with those of the naive matcher, in all kinds of years.
func TestDays(t *testing.T) {
	random := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for range 60 {
		expr := randomExpr(random, time.Date(2026, time.Month(1+random.IntN(12)), 1+random.IntN(28), 0, 0, 0, 0, time.UTC))
		expr = "0 0 " + strings.SplitN(expr, " ", 3)[2]
		n, s := naively(expr), cron.Spec{}
		day := time.Date(2092, 1, 1, 0, 0, 0, 0, time.UTC)
		if parsed, err := cron.Parse(expr); err == nil {
			s = parsed
		} else {
			for ; day.Year() < 2132; day = day.AddDate(0, 0, 1) {
				if n.matchesDay(day) {
					t.Fatalf("%q is refused (%v), but fires on %s", expr, err, day)
				}
			}
			continue
		}
		for ; day.Year() < 2112; day = day.AddDate(0, 0, 1) {
			got, ok := s.Next(day.Add(-time.Second), time.UTC, cron.Policy{})
			if matches := n.matchesDay(day); (ok && got.Time.Equal(day)) != matches {
				t.Fatalf("%q on %s: %t, want %t", expr, day.Format("Mon 2006-01-02"), !matches, matches)
			}
		}
	}
}

// TestNever refuses what no day of the 400 years of the calendar matches, and nothing else.
func TestNever(t *testing.T) {
	t.Parallel()
	for _, expr := range []string{
		"0 0 31 2,4,6,9,11 *", "0 0 30,31 2 *", "0 0 L-29 2 *", "0 0 L-30 4 *", "0 0 31W 2-2 *", "0 0 */15 * 1#2", "0 0 */31 4 1L",
	} {
		if s, err := cron.Parse(expr); !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "cron: ") || !strings.Contains(err.Error(), "never fires") {
			t.Errorf("Parse(%q) = %v, %v; want that it never fires", expr, s, err)
		}
	}
	for expr, first := range map[string]string{
		"0 0 29 2 *":     "2104-02-29",
		"0 0 L-28 2 *":   "2104-02-01",
		"0 0 */28 2 1#5": "2112-02-29",
	} {
		got, ok := parse(t, expr).Next(time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC), time.UTC, cron.Policy{})
		if !ok || got.Time.Format(time.DateOnly) != first {
			t.Errorf("%q: %v, %t, want %s", expr, got.Time, ok, first)
		}
	}
}

// TestGapOfEachYear: what lies in the gap of each year and is to be skipped never fires, which takes no endless search to find.
func TestGapOfEachYear(t *testing.T) {
	t.Parallel()
	berlin := load(t, "Europe/Berlin")
	s, after := parse(t, "30 2 * 3 SUNL"), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if got, ok := s.Next(after, berlin, cron.Policy{Gap: cron.GapSkip}); ok {
		t.Errorf("fires at %s", got.Time)
	}
	if got, ok := s.Next(after, berlin, cron.Policy{}); !ok || got.Kind != cron.Shifted {
		t.Errorf("%v, %t, want a fire that is shifted", got, ok)
	}
}

// TestSecondPassOfARareDay: the next match by the wall clock is a year away, but the clock goes back before.
func TestSecondPassOfARareDay(t *testing.T) {
	t.Parallel()
	berlin, s := load(t, "Europe/Berlin"), parse(t, "30 2 25 10 *")
	first, _ := s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), berlin, cron.Policy{Overlap: cron.OverlapTwice})
	second, _ := s.Next(first.Time, berlin, cron.Policy{Overlap: cron.OverlapTwice})
	if first.Kind != cron.FirstPass || second.Kind != cron.SecondPass || second.Time.Sub(first.Time) != time.Hour {
		t.Errorf("%v, then %v, want both passes of one day", first, second)
	}
}

func TestEnd(t *testing.T) {
	t.Parallel()
	s := parse(t, "@yearly")
	if got, ok := s.Next(time.Date(9998, 6, 1, 0, 0, 0, 0, time.UTC), time.UTC, cron.Policy{}); !ok || got.Time.Year() != 9999 {
		t.Errorf("%v, %t, want the last year", got, ok)
	}
	if got, ok := s.Next(time.Date(9999, 6, 1, 0, 0, 0, 0, time.UTC), time.UTC, cron.Policy{}); ok {
		t.Errorf("fires at %s, after the last year", got.Time)
	}
	if got, ok := parse(t, "0 22 31 12 *").Next(time.Date(9999, 6, 1, 0, 0, 0, 0, time.UTC), load(t, "America/New_York"), cron.Policy{}); ok {
		t.Errorf("fires at %s, after the last year of UTC", got.Time.UTC())
	}
	if got, ok := parse(t, "* * * * *").Next(time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), time.UTC, cron.Policy{}); !ok || got.Time.Format(time.RFC3339) != "0001-01-01T00:01:00Z" {
		t.Errorf("%v, %t, want the first minute of the first year", got.Time, ok)
	}
}

// TestMessages wants each error to name the field, what is wrong and what helps.
func TestMessages(t *testing.T) {
	t.Parallel()
	for expr, parts := range map[string][]string{
		"60 * * * *":                    {"minute", "60", "0-59"},
		"* 24 * * *":                    {"hour", "24", "0-23"},
		"61 * * * * *":                  {"second", "61", "0-59"},
		"* * 32 * *":                    {"day of month", "32", "1-31"},
		"* * * 13 *":                    {"month", "13", "1-12"},
		"* * * JANUARY *":               {"month", "JANUARY", "JAN-DEC"},
		"* * * * 8":                     {"day of week", "8", "0-7"},
		"* * * * L":                     {"day of week", "5L"},
		"* * * * 1-5L":                  {"day of week", "1-5"},
		"* * * * 1#0":                   {"day of week", "1 to 5"},
		"* * 1L * *":                    {"day of month", "1L"},
		"* * L-3W * *":                  {"day of month", "L-n"},
		"* * L/2 * *":                   {"day of month", "L stands alone"},
		"* * 5W/2 * *":                  {"day of month", "5W"},
		"L * * * *":                     {"minute", "L"},
		"5-1 * * * *":                   {"minute", "5-1", "backwards"},
		"* * * * 7-2":                   {"day of week", "7-2", "backwards"},
		"*-5 * * * *":                   {"minute", `"*"`},
		"-5 * * * *":                    {"minute"},
		"5- * * * *":                    {"minute"},
		"+5 * * * *":                    {"minute", "+5"},
		"*/ * * * *":                    {"minute", "step"},
		"*/-1 * * * *":                  {"minute", "step"},
		"1/2/3 * * * *":                 {"minute", "step"},
		"** * * * *":                    {"minute", "**"},
		"* * * * * * *":                 {"7 fields", "5"},
		"@every 5m":                     {"@every", "interval"},
		"@reboot":                       {"@reboot", "trigger"},
		"@daily 5":                      {"@daily", "alone"},
		"@fortnightly":                  {"@fortnightly", "@weekly"},
		"CRON_TZ=UTC * * * * *":         {"time_zone"},
		"tz=UTC * * * * *":              {"time_zone"},
		strings.Repeat("1,", 600):       {"1200 bytes", "1024"},
		"\x00 * * * *":                  {"minute"},
		"\xff * * * *":                  {"ASCII"},
		"0 0 * * ſun":                   {"ſ", "ASCII"},
		"＊ * * * *":                     {"＊", "ASCII"},
		"30-10 * * * *":                 {"minute", "30-10"},
		"0 0 " + "1,1," + "40" + " * *": {"day of month", "40"},
	} {
		_, err := cron.Parse(expr)
		if !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "cron") {
			t.Errorf("Parse(%q) = %v", expr, err)
			continue
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("Parse(%q) = %v, which does not say %q", expr, err, part)
			}
		}
	}
}

func TestZones(t *testing.T) {
	t.Parallel()
	var zones cron.Zones
	for _, name := range []string{"", "Local", "local", "Europe/Berlim", "../etc/passwd", "/etc/localtime", "right/Europe/Berlin", "posix/UTC", "localtime", "Europe", "UTC ", strings.Repeat("x", 9999)} {
		if loc, err := zones.Load(name); !errs.Is(err, errs.InvalidArgument) || !strings.HasPrefix(err.Error(), "time_zone: ") {
			t.Errorf("Load(%q) = %v, %v", name, loc, err)
		}
	}
	first, err := zones.Load("Europe/Berlin")
	if second, _ := zones.Load("Europe/Berlin"); err != nil || first != second {
		t.Errorf("Load = %v, then %v, %v", first, second, err)
	}
}

// TestZoneVersion: the same rules have one version from any source; others have another.
func TestZoneVersion(t *testing.T) {
	t.Parallel()
	berlin := cron.ZoneVersion(load(t, "Europe/Berlin"))
	if rule := cron.ZoneVersion(zoneOf(t, "CET-1CEST,M3.5.0,M10.5.0/3")); rule != berlin {
		t.Errorf("%s by the rule, %s by the database", rule, berlin)
	}
	for _, rule := range []string{"CET-1", "CET-1CEST,M3.5.0,M10.5.0/2", "CET-1CEST,M3.4.0,M10.5.0/3"} {
		if cron.ZoneVersion(zoneOf(t, rule)) == berlin {
			t.Errorf("%s has the version of Berlin", rule)
		}
	}
}

// TestNoAllocations keeps the promise of Next, on the hardest searches as well.
func TestNoAllocations(t *testing.T) {
	for _, c := range searches(t) {
		if n := testing.AllocsPerRun(10, func() { c.spec.Next(c.after, c.loc, c.policy) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for _, c := range searches(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.spec.Next(c.after, c.loc, c.policy)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_, _ = cron.Parse("0,30 8-18/2 1-15 * MON-FRI")
	}
}

type search struct {
	name, expr string
	spec       cron.Spec
	loc        *time.Location
	after      time.Time
	policy     cron.Policy
}

func searches(t testing.TB) []search {
	berlin, rule := load(t, "Europe/Berlin"), load(t, "America/New_York")
	summer := time.Date(2026, 7, 1, 12, 0, 1, 0, time.UTC)
	later := time.Date(2050, 7, 1, 12, 0, 1, 0, time.UTC)
	all := []search{
		{name: "usual/minutes", expr: "*/5 * * * *", loc: berlin, after: summer},
		{name: "usual/minutes_2050", expr: "*/5 * * * *", loc: berlin, after: later},
		{name: "usual/daily", expr: "30 2 * * *", loc: berlin, after: summer},
		{name: "usual/weekdays", expr: "0 9 * * MON-FRI", loc: rule, after: later},
		{name: "usual/monthly", expr: "0 0 L * *", loc: rule, after: summer},
		{name: "usual/yearly", expr: "@yearly", loc: rule, after: later},
		{name: "usual/utc", expr: "@daily", loc: time.UTC, after: summer},
		{name: "usual/overlap", expr: "30 2 * * *", loc: berlin, after: time.Date(2026, 10, 25, 0, 45, 0, 0, time.UTC)},
		{name: "worst/leap_day", expr: "0 0 29 2 *", loc: berlin, after: time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC)},
		{name: "worst/leap_day_monday", expr: "0 0 */28 2 1#5", loc: berlin, after: time.Date(2088, 3, 1, 0, 0, 0, 0, time.UTC)},
		{name: "worst/gap_of_each_year", expr: "30 2 * 3 SUNL", loc: berlin, after: summer, policy: cron.Policy{Gap: cron.GapSkip}},
	}
	for i := range all {
		all[i].spec = parse(t, all[i].expr)
	}
	return all
}
