package cron_test

import (
	"strconv"
	"strings"
	"time"

	"plinth/internal/cron"
)

// naive is an expression that is read anew, by the letter of the rules, for each instant that it is asked about.
type naive struct{ second, minute, hour, day, month, weekday string }

func naively(expr string) naive {
	switch strings.ToLower(strings.TrimSpace(expr)) {
	case "@yearly", "@annually":
		expr = "0 0 1 1 *"
	case "@monthly":
		expr = "0 0 1 * *"
	case "@weekly":
		expr = "0 0 * * 0"
	case "@daily", "@midnight":
		expr = "0 0 * * *"
	case "@hourly":
		expr = "0 * * * *"
	}
	f := strings.Fields(strings.ToUpper(expr))
	if len(f) == 5 {
		f = append([]string{"0"}, f...)
	}
	return naive{f[0], f[1], f[2], f[3], f[4], f[5]}
}

func (n naive) realTime() bool { return strings.ContainsAny(n.minute[:1]+n.hour[:1], "*?") }

// matches reports whether a wall time, given as the time of UTC with the same digits, matches.
func (n naive) matches(w time.Time) bool {
	return numbers(n.second, 0, 59, "").has(w.Second()) && numbers(n.minute, 0, 59, "").has(w.Minute()) &&
		numbers(n.hour, 0, 23, "").has(w.Hour()) && n.matchesDay(w)
}

func (n naive) matchesDay(w time.Time) bool {
	if !numbers(n.month, 1, 12, "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC").has(int(w.Month())) {
		return false
	}
	byMonth, byWeek := n.byMonth(w), n.byWeek(w)
	if strings.ContainsAny(n.day[:1]+n.weekday[:1], "*?") {
		return byMonth && byWeek
	}
	return byMonth || byWeek
}

func (n naive) byMonth(w time.Time) bool {
	last := time.Date(w.Year(), w.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
	for part := range strings.SplitSeq(n.day, ",") {
		switch {
		case part == "LW":
			if w.Day() == nearest(w, last, last) {
				return true
			}
		case part[0] == 'L':
			before, _ := strconv.Atoi(strings.TrimPrefix(part[1:], "-"))
			if w.Day() == last-before {
				return true
			}
		case strings.HasSuffix(part, "W"):
			day, _ := strconv.Atoi(part[:len(part)-1])
			if day <= last && w.Day() == nearest(w, day, last) {
				return true
			}
		default:
			if numbers(part, 1, 31, "").has(w.Day()) {
				return true
			}
		}
	}
	return false
}

// nearest returns the weekday of the month of w that is the fewest days from a day of it.
func nearest(w time.Time, day, last int) int {
	for distance := 0; ; distance++ {
		for _, d := range []int{day - distance, day + distance} {
			wd := time.Date(w.Year(), w.Month(), d, 0, 0, 0, 0, time.UTC).Weekday()
			if d >= 1 && d <= last && wd != time.Saturday && wd != time.Sunday {
				return d
			}
		}
	}
}

func (n naive) byWeek(w time.Time) bool {
	const names = "SUN MON TUE WED THU FRI SAT"
	day := int(w.Weekday())
	isDay := func(set numberSet) bool { return set.has(day) || day == 0 && set.has(7) }
	for part := range strings.SplitSeq(n.weekday, ",") {
		d, week, hash := strings.Cut(part, "#")
		switch {
		case hash:
			if isDay(numbers(d, 0, 7, names)) && strconv.Itoa((w.Day()+6)/7) == week {
				return true
			}
		case strings.HasSuffix(part, "L"):
			if isDay(numbers(part[:len(part)-1], 0, 7, names)) && w.AddDate(0, 0, 7).Month() != w.Month() {
				return true
			}
		default:
			if isDay(numbers(part, 0, 7, names)) {
				return true
			}
		}
	}
	return false
}

type numberSet map[int]bool

func (s numberSet) has(n int) bool { return s[n] }

func numbers(text string, low, high int, names string) numberSet {
	for i, name := range strings.Fields(names) {
		text = strings.ReplaceAll(text, name, strconv.Itoa(low+i))
	}
	if key := text + " of " + strconv.Itoa(high); cached[key] != nil {
		return cached[key]
	} else {
		set := numberSet{}
		cached[key] = set
		for part := range strings.SplitSeq(text, ",") {
			span, step, stepped := strings.Cut(part, "/")
			from, to, every := low, high, 1
			if stepped {
				every, _ = strconv.Atoi(step)
			}
			if span != "*" && span != "?" {
				a, b, ranged := strings.Cut(span, "-")
				from, _ = strconv.Atoi(a)
				if !stepped {
					to = from
				}
				if ranged {
					if to, _ = strconv.Atoi(b); to < from && to == 0 {
						to = 7
					}
				}
			}
			for v := from; v <= to; v += every {
				set[v] = true
			}
		}
		return set
	}
}

// cached makes the naive matcher bearable. Its tests do not run in parallel.
var cached = map[string]numberSet{}

// span is a time in which a zone shows one offset.
type span struct{ start, end, offset int64 }

// spansOf finds the spans of a zone between two instants by asking for the offset of every quarter of an hour, and of the seconds
// in those in which it changes.
func spansOf(loc *time.Location, from, to int64) (spans []span) {
	offset := func(t int64) int64 {
		_, o := time.Unix(t, 0).In(loc).Zone()
		return int64(o)
	}
	current := span{start: from, offset: offset(from)}
	for t := from; t < to; t += 900 {
		if offset(t+900) == current.offset {
			continue
		}
		for u := t; u <= t+900; u++ {
			if o := offset(u); o != current.offset {
				current.end = u
				spans = append(spans, current)
				current = span{start: u, offset: o}
			}
		}
	}
	current.end = to
	return append(spans, current)
}

type firing struct {
	at   int64
	kind cron.Kind
}

// firings walks over every wall time of the spans, minute by minute or second by second, and applies the policy by its words.
func (n naive) firings(spans []span, p cron.Policy) (all []firing, skipped []firing) {
	step := int64(60)
	if n.second != "0" {
		step = 1
	}
	shift := p.Gap == cron.GapShift || p.Gap == cron.GapDefault && !n.realTime()
	twice := p.Overlap == cron.OverlapTwice || p.Overlap == cron.OverlapDefault && n.realTime()
	shows := func(spans []span, wall int64) bool {
		for _, s := range spans {
			if s.start <= wall-s.offset && wall-s.offset < s.end {
				return true
			}
		}
		return false
	}
	up := func(wall int64) int64 { return wall + ((-wall%step)+step)%step }
	matches := func(wall int64) bool { return n.matches(time.Unix(wall, 0).UTC()) }
	for i, s := range spans {
		shifted := false
		if i > 0 {
			for wall := up(s.start + spans[i-1].offset); wall < s.start+s.offset; wall += step {
				if !shows(spans, wall) && matches(wall) {
					if shifted || !shift {
						skipped = append(skipped, firing{wall, 0})
					}
					shifted = shifted || shift
				}
			}
		}
		if shifted {
			all = append(all, firing{s.start, cron.Shifted})
		}
		for wall := up(s.start + s.offset); wall < s.end+s.offset; wall += step {
			if !matches(wall) {
				continue
			}
			kind := cron.Normal
			if shows(spans[:i], wall) {
				kind = cron.SecondPass
			} else if shows(spans[i+1:], wall) {
				kind = cron.FirstPass
			}
			switch at := wall - s.offset; {
			case kind == cron.SecondPass && !twice:
				skipped = append(skipped, firing{wall, kind})
			case !shifted || at != s.start:
				all = append(all, firing{at, kind})
			}
		}
	}
	return all, skipped
}
