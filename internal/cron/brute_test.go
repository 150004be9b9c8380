package cron_test

import (
	"archive/zip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"plinth/internal/cron"
)

// TestBruteForce compares with the naive matcher around changes of the clocks of many zones, in data with and without the changes
// of the years to come.
func TestBruteForce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	zones := bruteZones(t)
	cases := 100
	if os.Getenv("CI") == "true" {
		cases = 1000
	}
	for range cases {
		loc := zones[random.IntN(len(zones))]
		change := changeNear(loc, time.Date(1880+random.IntN(200), 1, 1, 0, 0, 0, 0, time.UTC).Unix()+random.Int64N(366*86400))
		expr := randomExpr(random, time.Unix(change, 0).In(loc))
		s, err := cron.Parse(expr)
		if err != nil {
			continue // FuzzParse looks at these.
		}
		p := cron.Policy{Gap: cron.Gap(random.IntN(3)), Overlap: cron.Overlap(random.IntN(3))}
		if fault := compare(s, loc, change, p); fault != "" {
			t.Fatalf("%q in %s, %+v, around %s: %s", expr, loc, p, time.Unix(change, 0).UTC(), fault)
		}
	}
}

// TestLastChange looks at the last change that the data of a zone lists, after which it follows a rule.
func TestLastChange(t *testing.T) {
	for _, loc := range bruteZones(t) {
		if loc.String() != "America/Metlakatla" {
			continue
		}
		s, err := cron.Parse("5/20 1-3 * * *")
		if err != nil {
			t.Fatal(err)
		}
		change := changeNear(loc, time.Date(2018, 12, 1, 0, 0, 0, 0, time.UTC).Unix())
		if fault := compare(s, loc, change, cron.Policy{Overlap: cron.OverlapTwice}); fault != "" {
			t.Error(fault)
		}
	}
}

// TestSecondsBruteForce does so second by second.
func TestSecondsBruteForce(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"} {
		loc, _ := new(cron.Zones).Load(name)
		for _, day := range []string{"2011-12-30", "2026-03-29", "2026-10-25", "2026-04-04"} {
			at, _ := time.Parse(time.DateOnly, day)
			for _, expr := range []string{"*/7 * 1-3 * * *", "5-50/15,59 59,0 * * * *", "30 */20 2 * * *"} {
				s, err := cron.Parse(expr)
				if err != nil {
					t.Fatal(err)
				}
				if fault := compare(s, loc, changeNear(loc, at.Unix()), cron.Policy{}); fault != "" {
					t.Errorf("%q in %s near %s: %s", expr, name, day, fault)
				}
			}
		}
	}
}

// bruteZones are the zones with the oddest clocks, several times each, and all others.
func bruteZones(t *testing.T) (zones []*time.Location) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	odd := strings.Fields("Pacific/Apia Australia/Lord_Howe Antarctica/Troll Africa/Casablanca Pacific/Kiritimati Europe/Dublin " +
		"Africa/Monrovia Europe/Amsterdam America/Juneau Asia/Manila Pacific/Kwajalein America/St_Johns Pacific/Chatham Africa/Cairo")
	for _, file := range data.File {
		body, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		loc, err := time.LoadLocationFromTZData(file.Name, text)
		if err != nil {
			continue // a folder
		}
		zones = append(zones, loc)
		if slices.Contains(odd, file.Name) {
			machine, err := time.LoadLocation(file.Name)
			if err != nil {
				t.Fatal(err)
			}
			zones = append(zones, slices.Repeat([]*time.Location{loc, machine}, 20)...)
		}
	}
	return zones
}

// changeNear returns the first change of offset within two years after an instant, or the instant.
func changeNear(loc *time.Location, t int64) int64 {
	_, offset := time.Unix(t, 0).In(loc).Zone()
	for u := t; u < t+2*366*86400; u += 6 * 3600 {
		if _, o := time.Unix(u, 0).In(loc).Zone(); o != offset {
			return u
		}
	}
	return t
}

func compare(s cron.Spec, loc *time.Location, change int64, p cron.Policy) string {
	const margin = 36 * 3600
	spans := spansOf(loc, change-2*86400-margin, change+2*86400+margin)
	from, to := change-2*86400, change+2*86400
	all, skipped := naively(s.String()).firings(spans, p)
	after := time.Unix(from-1, 0)
	for _, want := range all {
		if want.at < from || want.at >= to {
			continue
		}
		got, ok := s.Next(after, loc, p)
		if !ok || got.Time.Unix() != want.at || got.Kind != want.kind {
			return fmt.Sprintf("after %s: %s (kind %d), %t; want %s (kind %d)", after.UTC(), got.Time.UTC(), got.Kind, ok, time.Unix(want.at, 0).UTC(), want.kind)
		}
		after = got.Time
	}
	if got, ok := s.Next(after, loc, p); ok && got.Time.Unix() < to {
		return fmt.Sprintf("after %s: %s (kind %d), want none before %s", after.UTC(), got.Time.UTC(), got.Kind, time.Unix(to, 0).UTC())
	}
	var got, want []string
	for skip := range s.Skipped(time.Unix(spans[0].start, 0), time.Unix(spans[len(spans)-1].end-1, 0), loc, p) {
		got = append(got, skip.Local)
	}
	for _, skip := range skipped {
		want = append(want, time.Unix(skip.at, 0).UTC().Format("2006-01-02T15:04:05"))
	}
	if !slices.Equal(got, want) {
		return fmt.Sprintf("skipped %v, want %v", got, want)
	}
	return ""
}

// randomExpr returns an expression that is likely to match around an instant.
func randomExpr(random *rand.Rand, near time.Time) string {
	pick := func(choices ...string) string { return choices[random.IntN(len(choices))] }
	num := func(low, high int) string { return fmt.Sprint(low + random.IntN(high-low+1)) }
	around := (near.Hour() + 21 + random.IntN(6)) % 24
	minute := pick("*", "*/15", "*/7", "0", "30", "0,30", num(0, 59), num(0, 29)+"-"+num(30, 59), "5/20", "?", "*,3")
	hour := pick("*", "*/2", fmt.Sprint(around), fmt.Sprintf("%d,%d", around, (around+1)%24), "0-4", "22-23/1,0", "*/5", "0", "1-23/2", "4/3")
	day := pick("*", "*", "*", "*/2", "?", fmt.Sprint(near.Day()), "L", "LW", "1W", "15W", "L-"+num(0, 6), num(1, 15)+"-"+num(16, 31), num(1, 31)+"W,"+num(1, 31))
	month := pick("*", "*", "*", fmt.Sprint(int(near.Month())), "jan-jun,JUL-Dec", "*/2", "2/3")
	weekday := pick("*", "*", "*", "?", "0", "7", "mon-FRI", "sat,SUN", "5-7", "FRI-SUN", "*/2", "SUNL", "0#"+num(1, 5), "sun#1,5L", num(0, 7)+"L", num(1, 6)+"/"+num(1, 4))
	return strings.Join([]string{minute, hour, day, month, weekday}, " ")
}
