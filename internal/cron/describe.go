package cron

import (
	"fmt"
	"math/bits"
	"slices"
)

// Language is one that expressions can be described in.
type Language uint8

// Values of Language.
const (
	English Language = iota
	Chinese          // simplified
)

// Describe returns the expression in words of a language, such as "At 02:30, on the last Sunday of the month, in March".
func (s Spec) Describe(l Language) string {
	p, err := parseFields(s.text)
	if err != nil {
		return "" // It is the zero Spec.
	}
	if l == Chinese {
		return chinese{p}.sentence(s.clocks(p))
	}
	return english{p}.sentence(s.clocks(p))
}

// clocks returns the times of a day, such as 02:30 or 02:30:15, where they are few and given one by one.
func (s *Spec) clocks(p parsed) (clocks []string) {
	const few = 6
	one := func(e element) bool { return e.form == values && e.low == e.high }
	for _, elements := range [][]element{p.second, p.minute, p.hour} {
		for _, e := range elements {
			if !one(e) {
				return nil
			}
		}
	}
	if bits.OnesCount64(s.second) > 1 || bits.OnesCount64(s.minute)*bits.OnesCount64(s.hour) > few {
		return nil
	}
	for from, ok := s.nextClock(0); ok; from, ok = s.nextClock(from + 1) {
		clock := fmt.Sprintf("%02d:%02d", from/3600, from/60%60)
		if from%60 != 0 {
			clock += fmt.Sprintf(":%02d", from%60)
		}
		clocks = append(clocks, clock)
	}
	return clocks
}

// every returns the step of a field that is * or */step alone.
func every(elements []element) (step int, ok bool) {
	e := elements[0]
	return e.step, len(elements) == 1 && e.form == everything
}

// all reports whether a field is * alone.
func all(elements []element) bool {
	step, ok := every(elements)
	return ok && step == 1
}

// only returns the value of a field that has one.
func only(elements []element) (n int, ok bool) {
	e := elements[0]
	return e.low, len(elements) == 1 && e.form == values && e.low == e.high
}

// unrolled replaces elements with steps by one element for each of their values.
func unrolled(elements []element) (flat []element) {
	for _, e := range elements {
		if e.form > everything || e.step == 1 {
			flat = append(flat, e)
			continue
		}
		for n := e.low; n <= e.high; n += e.step {
			flat = append(flat, element{form: values, low: n, high: n, step: 1})
		}
	}
	return flat
}

// phrases returns the words for each element, each phrase once.
func phrases(elements []element, words func(element) string) (list []string) {
	for _, e := range elements {
		if text := words(e); !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	return list
}
