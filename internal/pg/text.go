package pg

import (
	"strings"
	"unicode/utf8"
)

// IsText reports whether PostgreSQL can store s as text: as valid UTF-8 without U+0000.
func IsText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// Text returns s as PostgreSQL can store it, with U+FFFD in place of what it cannot.
func Text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
