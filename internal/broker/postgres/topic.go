package postgres

import (
	"regexp"
	"strings"
)

// pathOf converts a routing key into the form that the expressions of matches apply to: each word with a dot before it.
func pathOf(routingKey string) string {
	if routingKey == "" {
		return ""
	}
	return "." + routingKey
}

// matches converts the pattern of a binding into a regular expression of PostgreSQL.
func matches(pattern string) string {
	if pattern == "" {
		return "^$"
	}
	var expression strings.Builder
	expression.WriteString("^")
	for word := range strings.SplitSeq(pattern, ".") {
		switch word {
		case "*":
			expression.WriteString(`\.[^.]+`)
		case "#":
			expression.WriteString(`(?:\.[^.]+)*`)
		default:
			expression.WriteString(`\.` + regexp.QuoteMeta(word))
		}
	}
	return expression.String() + "$"
}
