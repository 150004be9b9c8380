package rpc

import (
	"slices"
	"strings"
)

// Tags are the entity tags that a header such as If-Match lists (RFC 9110, 8.8.3 and 13.1), as they stand there: in their quotes,
// weak ones with W/ before them.
type Tags struct {
	Any  bool // a star stands in place of the list
	List []string
}

// ParseTags returns the tags of all lines of a header. It reports false for what is neither a list of tags nor a star alone. A comma
// between the quotes of a tag ends nothing.
func ParseTags(header []string) (t Tags, ok bool) {
	rest := strings.Join(header, ",")
	for {
		if rest = strings.TrimLeft(rest, " \t,"); rest == "" {
			return t, t.Any != (len(t.List) > 0)
		}
		end := tagEnd(rest)
		switch {
		case rest[0] == '*':
			t.Any, end = true, 1
		case end == 0:
			return t, false
		default:
			t.List = append(t.List, rest[:end])
		}
		if rest = strings.TrimLeft(rest[end:], " \t"); rest != "" && rest[0] != ',' {
			return t, false
		}
	}
}

// tagEnd returns where the tag that text begins with ends, 0 where it begins with none.
func tagEnd(text string) int {
	opaque, quoted := strings.CutPrefix(strings.TrimPrefix(text, "W/"), `"`)
	size := strings.IndexFunc(opaque, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f })
	if !quoted || size < 0 || opaque[size] != '"' {
		return 0
	}
	return len(text) - len(opaque) + size + 1
}

// Has reports whether a list has a tag, which is strong, or a star stands in its place. A weak tag of the list is another one, unless
// the comparison is weak.
func (t Tags) Has(tag string, weak bool) bool {
	return t.Any || slices.Contains(t.List, tag) || weak && slices.Contains(t.List, "W/"+tag)
}
