package cron

import (
	"fmt"
	"strconv"
	"strings"

	"plinth/internal/errs"
)

// field is one of the fields of an expression.
type field struct {
	name     string
	min, max int
	names    []string // of the values, from min on
}

var (
	secondField  = field{name: "second", min: 0, max: 59}
	minuteField  = field{name: "minute", min: 0, max: 59}
	hourField    = field{name: "hour", min: 0, max: 23}
	dayField     = field{name: "day of month", min: 1, max: 31}
	monthField   = field{name: "month", min: 1, max: 12, names: monthNames}
	weekdayField = field{name: "day of week", min: 0, max: 7, names: weekdayNames}

	monthNames   = []string{"JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"}
	weekdayNames = []string{"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"}
)

// form is what an element of a field's list says.
type form uint8

const (
	values      form = iota // low to high in steps
	everything              // *, in steps
	lastDay                 // L and L-n; low is n
	nearestDay              // nW; low is n
	lastWorkday             // LW
	lastOfWeek              // dL; low is the day of the week
	nthOfWeek               // d#n; low is the day of the week, high is n
)

// element is one of the list of a field. step is 1 where none is given.
type element struct {
	form            form
	low, high, step int
}

// anything reports whether a field begins with * or ?, which is what its rules depend on.
func anything(text string) bool { return text[0] == '*' || text[0] == '?' }

// parse returns the elements of the field. The error names it and says what is allowed.
func (f field) parse(text string) ([]element, error) {
	parts := strings.Split(text, ",")
	elements := make([]element, len(parts))
	for i, part := range parts {
		e, err := f.element(strings.ToUpper(part))
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "cron: %s %q: %v", f.name, errs.Shortened(text, 64), err)
		}
		elements[i] = e
	}
	return elements, nil
}

// problem is what is wrong with an element of a field, in words that follow the field's name and text.
type problem string

func (p problem) Error() string { return string(p) }

func problemf(format string, args ...any) error { return problem(fmt.Sprintf(format, args...)) }

func (f field) element(text string) (element, error) {
	if text == "" {
		return element{}, problemf("an element of the list is empty")
	}
	special, ok, err := element{}, false, error(nil)
	switch f.name {
	case dayField.name:
		special, ok, err = f.daySpecial(text)
	case weekdayField.name:
		special, ok, err = f.weekdaySpecial(text)
	}
	if ok || err != nil {
		return special, err
	}
	span, stepText, stepped := strings.Cut(text, "/")
	e := element{form: values, step: 1}
	if stepped {
		if e.step, ok = number(stepText); !ok || e.step == 0 {
			return e, problemf("the step %q after / must be a number from 1 to %d", errs.Shortened(stepText, 16), maxNumber)
		}
	}
	if span == "*" || span == "?" {
		e.form, e.low, e.high = everything, f.min, f.max
		return e, nil
	}
	lowText, highText, ranged := strings.Cut(span, "-")
	if e.low, err = f.value(lowText); err != nil {
		return e, err
	}
	switch {
	case ranged:
		if e.high, err = f.value(highText); err != nil {
			return e, err
		}
		if highText == weekdayNames[0] && e.low > 0 { // FRI-SUN: Sunday is 7 as well.
			e.high = 7
		}
		if e.low > e.high {
			return e, problemf("the range %s runs backwards", span)
		}
	case stepped:
		e.high = f.max
	default:
		e.high = e.low
	}
	return e, nil
}

// daySpecial parses the forms that the day of month alone has. It reports false for any other.
func (f field) daySpecial(text string) (e element, ok bool, err error) {
	e.step = 1
	switch {
	case text == "L":
		e.form = lastDay
	case text == "LW":
		e.form = lastWorkday
	case strings.HasPrefix(text, "L-"):
		e.form = lastDay
		if e.low, ok = number(text[2:]); !ok || e.low > 30 {
			return e, false, problemf("L-n takes a number of days before the last, from 0 to 30")
		}
	case strings.HasPrefix(text, "L"):
		return e, false, problemf("L stands alone, or as L-n or LW")
	case strings.HasSuffix(text, "W"):
		e.form = nearestDay
		if e.low, ok = number(text[:len(text)-1]); !ok || e.low < 1 || e.low > 31 {
			return e, false, problemf("W takes one day from 1 to 31, such as 15W")
		}
	default:
		return e, false, nil
	}
	return e, true, nil
}

// weekdaySpecial parses the forms that the day of week alone has. It reports false for any other.
func (f field) weekdaySpecial(text string) (e element, ok bool, err error) {
	e.step = 1
	day, nth, hash := strings.Cut(text, "#")
	switch {
	case hash:
		e.form = nthOfWeek
		if e.high, ok = number(nth); !ok || e.high < 1 || e.high > 5 {
			return e, false, problemf("# takes a week from 1 to 5, such as 5#3 for the third Friday")
		}
	case strings.HasSuffix(text, "L"):
		e.form = lastOfWeek
		if day = text[:len(text)-1]; day == "" {
			return e, false, problemf("L needs a day of the week before it, such as 5L for the last Friday")
		}
	default:
		return e, false, nil
	}
	e.low, err = f.value(day)
	e.low %= 7
	return e, err == nil, err
}

// value parses a number of the field or a name.
func (f field) value(text string) (int, error) {
	for i, name := range f.names {
		if text == name {
			return f.min + i, nil
		}
	}
	n, ok := number(text)
	switch {
	case ok && f.min <= n && n <= f.max:
		return n, nil
	case ok:
		return 0, problemf("%d is not within %d-%d", n, f.min, f.max)
	case f.names != nil:
		return 0, problemf("%q is not a number within %d-%d or a name within %s-%s", errs.Shortened(text, 16), f.min, f.max, f.names[0], f.names[len(f.names)-1])
	default:
		return 0, problemf("%q is not a number within %d-%d", errs.Shortened(text, 16), f.min, f.max)
	}
}

// maxNumber is the largest number that an expression may have anywhere.
const maxNumber = 999

// number parses decimal digits alone.
func number(text string) (int, bool) {
	if text == "" || len(text) > 3 || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}
