package channel

import (
	"regexp"
	"strings"

	"plinth/internal/errs"
)

// maxName is the most bytes of a name or pattern.
const maxName = 200

// Name is a valid name of a channel: 1 to 200 letters, digits, and `_`, `-`, `:`, `@`, `/`, in words with dots between them.
type Name struct{ name string }

var (
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_:@/-]+(\.[A-Za-z0-9_:@/-]+)*$`)
	patternForm = regexp.MustCompile(`^([A-Za-z0-9_:@/-]+|[*#])(\.([A-Za-z0-9_:@/-]+|[*#]))*$`)
)

// ParseName returns name as a Name. Errors: InvalidArgument.
func ParseName(name string) (Name, error) {
	if len(name) > maxName || !nameForm.MatchString(name) {
		return Name{}, errs.New(errs.InvalidArgument, "channel: 1 to %d letters, digits, and _ - : @ / are allowed, in words with dots between them", maxName)
	}
	return Name{name}, nil
}

func (n Name) String() string { return n.name }

// Pattern is a valid pattern of names: words, of which `*` stands for one word and `#` for any number of them.
type Pattern struct{ pattern string }

// ParsePattern returns pattern as a Pattern. Errors: InvalidArgument.
func ParsePattern(pattern string) (Pattern, error) {
	if len(pattern) > maxName || !patternForm.MatchString(pattern) {
		return Pattern{}, errs.New(errs.InvalidArgument, "patterns: %d bytes at most are allowed, of words as channels have them, * and #, with dots between them", maxName)
	}
	return Pattern{pattern}, nil
}

func (p Pattern) String() string { return p.pattern }

// matches reports whether a name matches the pattern. The last "#" takes as few words as possible, and one more each time that the
// rest does not match, so the work is bounded by the product of the two lengths.
func (p Pattern) matches(name string) bool {
	hash, taken, any := "", "", false // what follows the last "#", and what is left of the name behind the words that it takes
	pattern, more := p.pattern, true
	rest, left := name, true
	for left {
		word, tail, longer := strings.Cut(rest, ".")
		part, behind, further := strings.Cut(pattern, ".")
		switch {
		case more && part == "#":
			if !further {
				return true
			}
			hash, taken, any = behind, rest, true
			pattern = behind
		case more && (part == "*" || part == word):
			pattern, more, rest, left = behind, further, tail, longer
		case any:
			var again bool
			if _, taken, again = strings.Cut(taken, "."); !again {
				return false
			}
			pattern, more, rest, left = hash, true, taken, true
		default:
			return false
		}
	}
	for more { // Only "#" stands for nothing.
		part, behind, further := strings.Cut(pattern, ".")
		if part != "#" {
			return false
		}
		pattern, more = behind, further
	}
	return true
}
