package cron

import (
	"strings"
	"unicode"

	"plinth/internal/errs"
)

// MaxLength is the most bytes of an expression.
const MaxLength = 1024

// descriptors are the names of expressions.
var descriptors = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// parsed are the elements of each field. texts are the fields as they were given.
type parsed struct {
	second, minute, hour, day, month, weekday []element

	texts [6]string // from the second on
}

// Parse returns the Spec of an expression. The error is of kind InvalidArgument; it names the field of the expression, what is
// wrong with it and what is allowed. An expression that can never fire, such as 0 0 30 2 *, is an error.
func Parse(expr string) (Spec, error) {
	p, err := parseFields(expr)
	if err != nil {
		return Spec{}, err
	}
	s := Spec{
		text:   expr,
		second: set(p.second), minute: set(p.minute), hour: set(p.hour), month: set(p.month),
		either:   !anything(p.texts[3]) && !anything(p.texts[5]),
		realTime: anything(p.texts[1]) || anything(p.texts[2]),
	}
	s.addDays(p.day)
	s.addWeekdays(p.weekday)
	if !s.everFires() {
		return Spec{}, errs.New(errs.InvalidArgument, "cron: %q never fires: no year has such a day", errs.Shortened(expr, 64))
	}
	return s, nil
}

func parseFields(expr string) (p parsed, err error) {
	if len(expr) > MaxLength {
		return p, errs.New(errs.InvalidArgument, "cron: has %d bytes, at most %d are allowed", len(expr), MaxLength)
	}
	if strange := strings.IndexFunc(expr, func(r rune) bool { return r > unicode.MaxASCII }); strange >= 0 {
		return p, errs.New(errs.InvalidArgument, "cron: has %q, and takes ASCII alone", []rune(expr[strange:])[0])
	}
	texts := strings.Fields(expr)
	if len(texts) == 0 {
		return p, errs.New(errs.InvalidArgument, "cron: is empty; %s", wantFields)
	}
	if first := strings.ToLower(texts[0]); first[0] == '@' {
		known, ok := descriptors[first]
		if !ok || len(texts) > 1 {
			return p, unknownDescriptor(first)
		}
		texts = strings.Fields(known)
	} else if strings.HasPrefix(first, "tz=") || strings.HasPrefix(first, "cron_tz=") {
		return p, errs.New(errs.InvalidArgument, "cron: begins with a time zone; set time_zone instead")
	}
	switch len(texts) {
	case 5:
		p.texts[0] = "0"
		copy(p.texts[1:], texts)
	case 6:
		copy(p.texts[:], texts)
	default:
		return p, errs.New(errs.InvalidArgument, "cron: has %d fields; %s", len(texts), wantFields)
	}
	for i, f := range []struct {
		field
		to *[]element
	}{
		{secondField, &p.second}, {minuteField, &p.minute}, {hourField, &p.hour}, {dayField, &p.day}, {monthField, &p.month}, {weekdayField, &p.weekday},
	} {
		if *f.to, err = f.parse(p.texts[i]); err != nil {
			return p, err
		}
	}
	return p, nil
}

const wantFields = "it takes 5 (minute, hour, day of month, month, day of week), 6 with the second before them, or a name such as @daily"

func unknownDescriptor(name string) error {
	switch name {
	case "@every":
		return errs.New(errs.InvalidArgument, "cron: @every is no expression; set interval instead")
	case "@reboot":
		return errs.New(errs.InvalidArgument, "cron: @reboot names no time; trigger the schedule, or set at for a single time")
	default:
		return errs.New(errs.InvalidArgument, "cron: %q is unknown; the names are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, each alone",
			errs.Shortened(name, 64))
	}
}

// set returns the values of elements, bit n for n.
func set(elements []element) (bits uint64) {
	for _, e := range elements {
		for n := e.low; n <= e.high; n += e.step {
			bits |= 1 << n
		}
	}
	return bits
}

func (s *Spec) addDays(elements []element) {
	for _, e := range elements {
		switch e.form {
		case lastDay:
			s.lastDays |= 1 << e.low
		case nearestDay:
			s.nearest |= 1 << e.low
		case lastWorkday:
			s.lastWeekday = true
		default:
			s.days |= uint32(set([]element{e}))
		}
	}
}

func (s *Spec) addWeekdays(elements []element) {
	for _, e := range elements {
		switch e.form {
		case lastOfWeek:
			s.lastOf |= 1 << e.low
		case nthOfWeek:
			s.nth[e.high] |= 1 << e.low
		default:
			days := uint32(set([]element{e}))
			s.weekdays |= (days | days>>7) & 0x7f
		}
	}
}
