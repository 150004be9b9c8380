package cron

import "math/bits"

// Spec is a valid expression. The zero Spec is none; Parse returns one. It may be compared, copied and used concurrently.
type Spec struct {
	text string

	second, minute, hour, month uint64 // bit n: n matches

	// Days of the month.
	days        uint32    // bit n: day n
	lastDays    uint32    // bit n: the n-th day before the last
	nearest     uint32    // bit n: the weekday nearest to day n
	lastWeekday bool      // LW
	weekdays    uint32    // bit d: every day of week d, 0 is Sunday
	lastOf      uint32    // bit d: the last day of week d
	nth         [6]uint32 // bit d of nth[n]: the n-th day of week d

	either   bool // a day matches if one of the two fields of days does
	realTime bool // the minute or the hour begins with *
}

// String returns the expression as it was given.
func (s Spec) String() string { return s.text }

// lastYear is the last one in which anything fires: times on the wire end with it.
const lastYear = 9999

const daySeconds = 24 * 60 * 60

// nextWall returns the first matching wall time that is not before wall. A wall time is what the clock shows, as seconds since it
// showed 00:00 of 1 January 1970. It reports false where there is none up to lastYear.
func (s *Spec) nextWall(wall int64) (int64, bool) {
	day := floorDiv(wall, daySeconds)
	year, month, dom := civil(day)
	first := day - int64(dom-1) // of the month
	if s.month>>month&1 != 0 && s.daysOf(year, month, first)>>dom&1 != 0 {
		if clock, ok := s.nextClock(int(wall - day*daySeconds)); ok {
			return day*daySeconds + int64(clock), true
		}
	}
	clock, _ := s.nextClock(0)
	for year <= lastYear {
		if s.month>>month&1 != 0 {
			if after := s.daysOf(year, month, first) >> (dom + 1) << (dom + 1); after != 0 {
				return (first+int64(bits.TrailingZeros32(after))-1)*daySeconds + int64(clock), true
			}
		}
		first += int64(daysIn(year, month))
		if month++; month > 12 {
			year, month = year+1, 1
		}
		dom = 0
	}
	return 0, false
}

// nextClock returns the first matching time of a day that is not before the given one, in seconds since midnight.
func (s *Spec) nextClock(from int) (int, bool) {
	h, m, sec := from/3600, from/60%60, from%60
	firstMinute, firstSecond := bits.TrailingZeros64(s.minute), bits.TrailingZeros64(s.second)
	if s.hour>>h&1 != 0 {
		if s.minute>>m&1 != 0 {
			if sec, ok := nextBit(s.second, sec); ok {
				return h*3600 + m*60 + sec, true
			}
		}
		if m, ok := nextBit(s.minute, m+1); ok {
			return h*3600 + m*60 + firstSecond, true
		}
	}
	h, ok := nextBit(s.hour, h+1)
	return h*3600 + firstMinute*60 + firstSecond, ok
}

// nextBit returns the lowest bit of a set that is at least from.
func nextBit(set uint64, from int) (int, bool) {
	n := bits.TrailingZeros64(set >> from << from)
	return n, n < 64
}

// daysOf returns the matching days of a month as a set, bit n for day n. first is the number of its first day.
func (s *Spec) daysOf(year, month int, first int64) uint32 {
	length := daysIn(year, month)
	weekday := int(floorMod(first+4, 7)) // of the first day; 1 January 1970 was a Thursday
	byMonth, byWeek := s.monthDays(length, weekday), s.weekDays(length, weekday)
	all := uint32(1)<<(length+1) - 2
	if s.either {
		return (byMonth | byWeek) & all
	}
	return byMonth & byWeek & all
}

// monthDays returns the days that the day of month field matches, and maybe some after the month's end.
func (s *Spec) monthDays(length, weekday int) uint32 {
	set := s.days
	for rest := s.lastDays; rest != 0; rest &= rest - 1 {
		if n := length - bits.TrailingZeros32(rest); n > 0 {
			set |= 1 << n
		}
	}
	for rest := s.nearest; rest != 0; rest &= rest - 1 {
		if n := bits.TrailingZeros32(rest); n <= length {
			set |= 1 << nearestWeekday(n, length, weekday)
		}
	}
	if s.lastWeekday {
		set |= 1 << nearestWeekday(length, length, weekday)
	}
	return set
}

// nearestWeekday returns the day from Monday to Friday that is nearest to day n without leaving the month.
func nearestWeekday(n, length, weekday int) int {
	switch (weekday + n - 1) % 7 {
	case 6: // Saturday
		if n > 1 {
			return n - 1
		}
		return n + 2
	case 0: // Sunday
		if n < length {
			return n + 1
		}
		return n - 2
	default:
		return n
	}
}

// weekDays returns the days that the day of week field matches, and maybe some after the month's end.
func (s *Spec) weekDays(length, weekday int) uint32 {
	const everyWeek = 1<<0 | 1<<7 | 1<<14 | 1<<21 | 1<<28
	turned := s.weekdays>>weekday | s.weekdays<<(7-weekday)&0x7f // bit n: day n+1 and every seventh after it
	set := uint32(uint64(turned) * everyWeek << 1)
	for rest := s.lastOf; rest != 0; rest &= rest - 1 {
		d := bits.TrailingZeros32(rest)
		set |= 1 << (length - (weekday+length-1-d+7)%7)
	}
	for n := 1; n < len(s.nth); n++ {
		for rest := s.nth[n]; rest != 0; rest &= rest - 1 {
			if day := 1 + (bits.TrailingZeros32(rest)-weekday+7)%7 + 7*(n-1); day <= length {
				set |= 1 << day
			}
		}
	}
	return set
}

// everFires reports whether any day matches: the calendar repeats itself after 400 years.
func (s *Spec) everFires() bool {
	first := int64(10957) // 1 January 2000
	for year := 2000; year < 2400; year++ {
		for month := 1; month <= 12; month++ {
			if s.month>>month&1 != 0 && s.daysOf(year, month, first) != 0 {
				return true
			}
			first += int64(daysIn(year, month))
		}
	}
	return false
}

// civil returns the date of a day that is counted from 1 January 1970, in the Gregorian calendar.
func civil(day int64) (year, month, dom int) {
	z := day + 719468 // since 1 March of the year 0
	era := floorDiv(z, 146097)
	ofEra := int(z - era*146097)
	yearOfEra := (ofEra - ofEra/1460 + ofEra/36524 - ofEra/146096) / 365
	ofYear := ofEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100) // since 1 March
	m := (5*ofYear + 2) / 153
	dom = ofYear - (153*m+2)/5 + 1
	year = yearOfEra + int(era)*400
	if m < 10 {
		return year, m + 3, dom
	}
	return year + 1, m - 9, dom
}

func daysIn(year, month int) int {
	if month == 2 {
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 30 + (month+month>>3)&1
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func floorMod(a, b int64) int64 { return a - floorDiv(a, b)*b }
