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

var errToken = errs.New(errs.InvalidArgument,
	"page_token: not a token of this list; use next_page_token of the page before, with the same filter")

// List is a list of T that clients read in pages. A P is a position in it.
type List[T, P any] struct {
	// Of is all that decides what is in the list: what is listed, of whom, and by which filter. A token of one list means
	// nothing to another.
	Of []any
	// Start is the position before the first item.
	Start P
	// Position returns the position of an item as text, which Parse reads. A client may pass any text to Parse.
	Position func(T) string
	Parse    func(string) (P, error)
	// Select returns up to size items after a position, and reports whether there are more. It returns at least one item
	// if there are any, unless the list has Next.
	Select func(after P, size int) (items []T, more bool, err error)
	// Next, which may be nil, returns the position after a page that ended before it was full, as text, or "" for that of its last
	// item.
	Next func() string
}

// Page returns the page that token names, the first one for an empty token. A page has at most size items: 0 means 100, and
// more than 1,000 means 1,000. next is the token of the next page, empty on the last one. Errors: InvalidArgument for a token
// that is not of this list; those of Select.
func (l List[T, P]) Page(size int, token string) (items []T, next string, err error) {
	digest := l.digest()
	after := l.Start
	if token != "" {
		text, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(text) < len(digest) || string(text[:len(digest)]) != digest {
			return nil, "", errToken
		}
		if after, err = l.Parse(string(text[len(digest):])); err != nil {
			return nil, "", errToken
		}
	}
	if size <= 0 {
		size = defaultPage
	}
	items, more, err := l.Select(after, min(size, maxPage))
	if err != nil {
		return nil, "", err
	}
	if more {
		next = base64.RawURLEncoding.EncodeToString([]byte(digest + l.next(items)))
	}
	return items, next, nil
}

func (l List[T, P]) next(items []T) string {
	if l.Next != nil {
		if position := l.Next(); position != "" {
			return position
		}
	}
	return l.Position(items[len(items)-1])
}

func (l List[T, P]) digest() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", l.Of))
	return string(sum[:8])
}

// OneMore returns a List.Select that finds out whether there are more items by asking for one more than the page has.
func OneMore[T, P any](query func(after P, limit int) ([]T, error)) func(after P, size int) ([]T, bool, error) {
	return func(after P, size int) ([]T, bool, error) {
		items, err := query(after, size+1)
		return items[:min(len(items), size)], len(items) > size, err
	}
}
