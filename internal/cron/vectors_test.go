package cron_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"plinth/internal/cron"
	"plinth/internal/errs"
)

// vectors are expressions with the times at which they fire, which were found by walking over every instant.
type vectors struct {
	Vectors []struct {
		ID       string                        `json:"id"`
		Cron     string                        `json:"cron"`
		TimeZone string                        `json:"time_zone"`
		Policy   struct{ Gap, Overlap string } `json:"dst_policy"`
		After    time.Time                     `json:"after"`
		Expected []time.Time                   `json:"expected"`
		Kind     []string                      `json:"kind"`
		Local    []string                      `json:"local"`
		Reason   string                        `json:"reason"`
	} `json:"vectors"`
	Invalid []struct{ ID, Cron, Reason string } `json:"invalid"`
}

func readVectors(t *testing.T, name string) (v vectors) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

var (
	gaps     = map[string]cron.Gap{"": cron.GapDefault, "DST_GAP_SKIP": cron.GapSkip, "DST_GAP_SHIFT": cron.GapShift}
	overlaps = map[string]cron.Overlap{"": cron.OverlapDefault, "DST_OVERLAP_ONCE": cron.OverlapOnce, "DST_OVERLAP_TWICE": cron.OverlapTwice}
	kinds    = map[cron.Kind]string{cron.Normal: "normal", cron.Shifted: "shifted", cron.FirstPass: "first", cron.SecondPass: "second"}
)

func TestVectors(t *testing.T) {
	t.Parallel()
	// The second file was made by another program, with another reader of the zone database.
	for _, v := range append(readVectors(t, "vectors.json").Vectors, readVectors(t, "zones.json").Vectors...) {
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			s, err := cron.Parse(v.Cron)
			if err != nil {
				t.Fatal(err)
			}
			loc, err := time.LoadLocation(v.TimeZone)
			if err != nil {
				t.Fatal(err)
			}
			after := v.After
			for i, want := range v.Expected {
				got, ok := s.Next(after, loc, cron.Policy{Gap: gaps[v.Policy.Gap], Overlap: overlaps[v.Policy.Overlap]})
				if !ok || !got.Time.Equal(want) || kinds[got.Kind] != v.Kind[i] || got.Time.Format("Mon 2006-01-02 15:04:05 -0700") != v.Local[i] {
					t.Errorf("%q in %s after %s: %v %v (%s), %t, want %v (%s): %s",
						v.Cron, v.TimeZone, after, got.Time, got.Time.UTC(), kinds[got.Kind], ok, v.Local[i], v.Kind[i], v.Reason)
				}
				after = got.Time
			}
		})
	}
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	for _, v := range readVectors(t, "vectors.json").Invalid {
		_, err := cron.Parse(v.Cron)
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("Parse(%q) = %v, want an error: %s", v.Cron, err, v.Reason)
		}
		t.Log(err)
	}
}
