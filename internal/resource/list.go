// Package resource has what the standard methods of every domain share: the pages of their lists (AIP-158) and the masks of
// their updates (AIP-134).
package resource

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"plinth/internal/errs"
)

// Page sizes of lists.
const (
	defaultPage = 100
	maxPage     = 1000
)

// PageSize is how many items a page has at most, for what a client asks for: 100 for 0, and never more than 1,000.
func PageSize(asked int) int {
	if asked <= 0 {
		return defaultPage
	}
	return min(asked, maxPage)
}

var errToken = errs.New(errs.InvalidArgument,
	"page_token: not a token of this list; use next_page_token of the page before, with the same filter")

// List is a list that is read in pages. Its tokens mean nothing to another.
type List struct{ digest string }

// ListOf names a list by all that decides what is in it: what is listed, of whom, and by which filter.
func ListOf(what ...any) List {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", what))
	return List{string(sum[:8])}
}

// Token names a position, for the client.
func (l List) Token(position string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(l.digest + position))
}

// Position gives the position that a token of a list names; the zero P for no token. parse reads a position, and may meet
// whatever a client makes up. Errors: InvalidArgument.
func Position[P any](l List, token string, parse func(string) (P, error)) (position P, err error) {
	if token == "" {
		return position, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	n := len(l.digest)
	if err != nil || len(text) < n || string(text[:n]) != l.digest {
		return position, errToken
	}
	if position, err = parse(string(text[n:])); err != nil {
		return position, errToken
	}
	return position, nil
}
