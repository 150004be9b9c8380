package cron

import (
	"fmt"
	"math/bits"
	"time"
)

// Warnings returns what about an expression is easily meant otherwise, in English sentences without a full stop: rules that
// surprise, days that months do not have, and changes of the clock of a zone in the year after an instant.
func (s Spec) Warnings(after time.Time, loc *time.Location, p Policy) (warnings []string) {
	fields, err := parseFields(s.text)
	if err != nil {
		return nil // It is the zero Spec.
	}
	warnings = append(fields.floods(), fields.steps()...)
	warnings = append(warnings, s.oddDays(fields)...)
	warnings = append(warnings, s.changes(after, loc, p, all(fields.hour))...)
	next, ok := s.Next(after, loc, p)
	switch {
	case !ok:
		warnings = append(warnings, fmt.Sprintf("with this dst_policy it never fires in %s", loc))
	case next.Time.Sub(after) > 366*24*time.Hour:
		warnings = append(warnings, "it does not fire before "+next.Time.Format(time.DateOnly))
	}
	return warnings
}

// floods warns of a * that makes many fires of what was meant as one.
func (p parsed) floods() (warnings []string) {
	if all(p.second) && !all(p.minute) {
		warnings = append(warnings, "second is *: it fires 60 times in each minute that matches")
	}
	if all(p.minute) && !all(p.hour) {
		warnings = append(warnings, "minute is *: it fires in each of the 60 minutes of an hour that matches")
	}
	return warnings
}

// steps warns of steps that do not fit into their field.
func (p parsed) steps() (warnings []string) {
	for i, f := range []struct {
		field
		elements []element
		anew     string
	}{
		{secondField, p.second, "in each minute"}, {minuteField, p.minute, "in each hour"}, {hourField, p.hour, "on each day"},
		{dayField, p.day, "in each month"}, {monthField, p.month, "in each year"}, {weekdayField, p.weekday, "in each week"},
	} {
		step, ok := every(f.elements)
		size := f.max - f.min + 1
		if f.name == weekdayField.name {
			size = 7
		}
		switch {
		case !ok || step == 1:
		case step >= size:
			warnings = append(warnings, fmt.Sprintf("%s %s: the step is as long as the field, so only %d matches", f.name, p.texts[i], f.min))
		case size%step != 0 || f.name == dayField.name:
			warnings = append(warnings, fmt.Sprintf("%s %s: steps are counted anew %s, so the last one is shorter", f.name, p.texts[i], f.anew))
		}
	}
	return warnings
}

// oddDays warns of the rules for the two fields of days, and of months without the days.
func (s *Spec) oddDays(p parsed) (warnings []string) {
	switch {
	case s.either:
		warnings = append(warnings, "day of month and day of week are both set: a day that matches one of them is enough")
	case !all(p.day) && !all(p.weekday):
		warnings = append(warnings, "day of month or day of week begins with *: a day has to match both of them")
	}
	for _, e := range p.day {
		day := e.low
		if e.low != e.high && e.form != nearestDay || e.form != values && e.form != nearestDay {
			continue
		}
		var without []string
		for month := 1; month <= 12; month++ {
			if s.month>>month&1 != 0 && day > daysIn(2000, month) {
				without = append(without, englishMonth(month))
			}
		}
		switch {
		case without != nil:
			warnings = append(warnings, fmt.Sprintf("there is no day %d in %s", day, englishList(without)))
		case day == 29 && s.month>>2&1 != 0:
			warnings = append(warnings, "there is a day 29 in February in leap years only")
		}
	}
	if s.nth[5] != 0 {
		day := englishWeekday(bits.TrailingZeros32(s.nth[5]))
		warnings = append(warnings, "not every month has a fifth "+day)
	}
	return warnings
}

// changes warns of changes of the clock in the year after an instant that concern the expression. Of one that runs each hour, as
// real time does, only what a policy says is worth a word.
func (s *Spec) changes(after time.Time, loc *time.Location, p Policy, hourly bool) (warnings []string) {
	if hourly && p == (Policy{}) {
		return nil
	}
	shift, twice := s.rules(p)
	from := after.Unix() + 1
	last := min(after.AddDate(1, 0, 0).Unix(), time.Date(lastYear+1, 1, 1, 0, 0, 0, 0, loc).Unix()-1)
	for t := from; t <= last; {
		st, at := stretchAt(loc, t), t
		t = st.end
		if st.start < at { // The first one, or one whose end was told too early.
			continue
		}
		before := stretchAt(loc, st.start-1).offset
		wall, ok := s.nextWall(st.start + min(before, st.offset))
		if !ok || wall >= st.start+max(before, st.offset) {
			continue
		}
		shown := time.Unix(st.start, 0).In(loc).Format("15:04:05 -0700")
		switch {
		case before < st.offset && shift:
			warnings = append(warnings, fmt.Sprintf("the clock in %s leaves out %s: it fires at %s instead", loc, local(wall), shown))
		case before < st.offset:
			warnings = append(warnings, fmt.Sprintf("the clock in %s leaves out %s: it does not fire then", loc, local(wall)))
		case twice:
			warnings = append(warnings, fmt.Sprintf("the clock in %s shows %s twice: it fires both times", loc, local(wall)))
		default:
			warnings = append(warnings, fmt.Sprintf("the clock in %s shows %s twice: it fires the first time only", loc, local(wall)))
		}
	}
	return warnings
}
