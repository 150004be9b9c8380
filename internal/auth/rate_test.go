package auth_test

import (
	"testing"
	"time"

	"plinth/internal/auth"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]auth.Rate{
		"": {}, "1/s": {Count: 1, Per: time.Second}, "5000/m": {Count: 5_000, Per: time.Minute},
		"999999999/h": {Count: 999_999_999, Per: time.Hour},
	} {
		if got, err := auth.ParseRate(text); err != nil || got != want || got.String() != text || got.IsLimit() != (text != "") {
			t.Errorf("%q: %+v %q %v", text, got, got.String(), err)
		}
	}
	for _, text := range []string{"0/s", "-1/s", "+1/s", "1", "1/", "1/d", "1/s/m", "/s", " 1/s", "1.5/s", "1000000000/s", "x/s"} {
		if got, err := auth.ParseRate(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
