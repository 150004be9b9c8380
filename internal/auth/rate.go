package auth

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is how many of something are allowed in which time: Count at once, and then one every Per/Count. The zero Rate is no
// limit.
type Rate struct {
	Count int64
	Per   time.Duration
}

var periods = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

const maxRateCount = 999_999_999

// ParseRate parses a rate such as 100/s, 5000/m or 1000/h. An empty text is no limit.
func ParseRate(text string) (Rate, error) {
	if text == "" {
		return Rate{}, nil
	}
	count, period, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(count, 10, 64)
	if err != nil || n < 1 || n > maxRateCount || periods[period] == 0 {
		return Rate{}, fmt.Errorf("%.32q is no rate; it takes a number and the time, such as 100/s, 5000/m or 1000/h", text)
	}
	return Rate{int64(n), periods[period]}, nil
}

// String returns the rate in the form that ParseRate accepts.
func (r Rate) String() string {
	for name, period := range periods {
		if r.Count > 0 && r.Per == period {
			return strconv.FormatInt(r.Count, 10) + "/" + name
		}
	}
	return ""
}

// UnmarshalText implements encoding.TextUnmarshaler with ParseRate.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}

// IsLimit reports whether r limits anything.
func (r Rate) IsLimit() bool { return r.Count > 0 && r.Per > 0 }
