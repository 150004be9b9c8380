package cron

import (
	"fmt"
	"strings"
)

// english describes an expression in English.
type english struct{ parsed }

func (d english) sentence(clocks []string) string {
	when := "at " + englishList(clocks)
	if clocks == nil {
		when = d.within()
	}
	parts := []string{when}
	if days := d.days(); days != "" {
		parts = append(parts, days)
	} else if clocks != nil {
		parts = append(parts, "every day")
	}
	if !all(d.month) {
		parts = append(parts, "in "+englishList(phrases(unrolled(d.month), func(e element) string { return d.span(e, englishMonth) })))
	}
	text := strings.Join(parts, ", ")
	return strings.ToUpper(text[:1]) + text[1:]
}

// within says at which times of a day it is.
func (d english) within() string {
	var parts []string
	preposition := "in"
	second, fixed := only(d.second)
	_, run := every(d.second)
	_, often := every(d.minute)
	if !fixed || second != 0 {
		parts = append(parts, d.unit(d.second, "second", "at"))
	}
	switch {
	case len(parts) == 0:
		parts = append(parts, d.unit(d.minute, "minute", "at"))
		if !often {
			preposition = "of"
		}
	case !all(d.minute):
		parts = append(parts, d.unit(d.minute, "minute", "in"))
		preposition = "of"
	case !run:
		parts = append(parts, "of every minute")
	}
	if !all(d.hour) || preposition == "of" {
		parts = append(parts, d.hours(preposition))
	}
	return strings.Join(parts, " ")
}

// unit describes the seconds or the minutes.
func (d english) unit(elements []element, unit, preposition string) string {
	step, often := every(elements)
	n, single := only(elements)
	switch {
	case often && step == 1:
		return "every " + unit
	case often && 60%step == 0 && preposition == "at":
		return fmt.Sprintf("every %d %ss", step, unit)
	case often:
		return fmt.Sprintf("%s every %s %s from 0", preposition, ordinal(step), unit)
	case single:
		return fmt.Sprintf("%s %s %d", preposition, unit, n)
	default:
		return fmt.Sprintf("%s the %ss %s", preposition, unit, englishList(phrases(elements, d.numbers)))
	}
}

func (d english) hours(preposition string) string {
	step, often := every(d.hour)
	n, single := only(d.hour)
	switch {
	case often && step == 1:
		return preposition + " every hour"
	case often:
		return fmt.Sprintf("%s every %s hour from 0", preposition, ordinal(step))
	case single:
		return fmt.Sprintf("%s hour %d", preposition, n)
	default:
		return fmt.Sprintf("%s the hours %s", preposition, englishList(phrases(d.hour, d.numbers)))
	}
}

// days is empty for every day.
func (d english) days() string {
	byMonth := englishList(phrases(d.day, d.monthDay)) + " of the month"
	byWeek := englishList(phrases(unrolled(d.weekday), d.weekDay))
	switch {
	case all(d.day) && all(d.weekday):
		return ""
	case all(d.day):
		return "on " + byWeek
	case all(d.weekday):
		return "on " + byMonth
	case anything(d.texts[3]) || anything(d.texts[5]):
		return "on " + byMonth + ", but only on " + byWeek
	default:
		return "on " + byMonth + " or on " + byWeek
	}
}

func (d english) monthDay(e element) string {
	switch {
	case e.form == lastDay && e.low == 0:
		return "the last day"
	case e.form == lastDay:
		return fmt.Sprintf("the %s day before the last", ordinal(e.low))
	case e.form == nearestDay:
		return fmt.Sprintf("the weekday nearest to day %d", e.low)
	case e.form == lastWorkday:
		return "the last weekday"
	case e.low == e.high:
		return fmt.Sprintf("day %d", e.low)
	case e.form == everything && e.step == 1:
		return "every day"
	case e.form == everything:
		return fmt.Sprintf("every %s day from day 1", ordinal(e.step))
	case e.step == 1:
		return fmt.Sprintf("days %d to %d", e.low, e.high)
	default:
		return fmt.Sprintf("every %s day from day %d to %d", ordinal(e.step), e.low, e.high)
	}
}

func (d english) weekDay(e element) string {
	switch e.form {
	case lastOfWeek:
		return "the last " + englishWeekday(e.low) + " of the month"
	case nthOfWeek:
		return "the " + ordinal(e.high) + " " + englishWeekday(e.low) + " of the month"
	case everything:
		return "every day of the week"
	default:
		return d.span(e, englishWeekday)
	}
}

// span describes one value, or one from another on.
func (d english) span(e element, name func(int) string) string {
	switch {
	case e.low == e.high:
		return name(e.low)
	case e.step == 1:
		return name(e.low) + " to " + name(e.high)
	default:
		return fmt.Sprintf("every %s from %s to %s", ordinal(e.step), name(e.low), name(e.high))
	}
}

func (d english) numbers(e element) string {
	return d.span(e, func(n int) string { return fmt.Sprint(n) })
}

func englishMonth(n int) string {
	return [...]string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}[n-1]
}

func englishWeekday(n int) string {
	return [...]string{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}[n%7]
}

func englishList(items []string) string {
	last := len(items) - 1
	if last < 1 {
		return strings.Join(items, "")
	}
	return strings.Join(items[:last], ", ") + " and " + items[last]
}

func ordinal(n int) string {
	suffix := "th"
	if n/10%10 != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprint(n) + suffix
}
