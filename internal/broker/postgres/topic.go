package postgres

import (
	"regexp"
	"strings"
)

// pathOf turns a routing key into what the expression of matches is for: each word with a dot before it.
func pathOf(routingKey string) string {
	if routingKey == "" {
		return ""
	}
	return "." + routingKey
}

// matches turns the pattern of a binding into a regular expression of PostgreSQL.
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
