package file

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// condition returns the status that a request's preconditions lead to (RFC 9110 §13.2.2): 412, 304, or 0 if it is to be served.
// etag is strong, with its quotes.
func condition(h http.Header, etag string, modified time.Time) int {
	if tags, ok := field(h, "If-Match"); ok {
		if !matches(tags, etag, true) {
			return http.StatusPreconditionFailed
		}
	} else if since, ok := date(h, "If-Unmodified-Since"); ok && modified.After(since) {
		return http.StatusPreconditionFailed
	}
	if tags, ok := field(h, "If-None-Match"); ok {
		if matches(tags, etag, false) {
			return http.StatusNotModified
		}
	} else if since, ok := date(h, "If-Modified-Since"); ok && !modified.After(since) {
		return http.StatusNotModified
	}
	return 0
}

// wantsPart reports whether the Range of a request counts, as far as its If-Range decides (RFC 9110 §13.1.5).
func wantsPart(h http.Header, etag string, modified time.Time) bool {
	text, ok := field(h, "If-Range")
	if !ok {
		return true
	}
	if strings.HasSuffix(text, `"`) {
		return text == etag // A weak one never does.
	}
	at, ok := date(h, "If-Range")
	return ok && at.Equal(modified)
}

func field(h http.Header, name string) (string, bool) {
	values := h.Values(name)
	return strings.TrimSpace(strings.Join(values, ",")), len(values) > 0
}

func date(h http.Header, name string) (time.Time, bool) {
	at, err := http.ParseTime(h.Get(name))
	return at, err == nil
}

// matches reports whether a list of entity tags has one. A strong comparison takes no weak tags.
func matches(list, etag string, strong bool) bool {
	for list = strings.TrimSpace(list); list != ""; list = strings.TrimLeft(list, " \t,") {
		if list[0] == '*' {
			return true
		}
		weak := strings.HasPrefix(list, "W/")
		list = strings.TrimPrefix(list, "W/")
		if !strings.HasPrefix(list, `"`) {
			return false // No tag begins like that.
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if list[:end+2] == etag && !(strong && weak) {
			return true
		}
		list = list[end+2:]
	}
	return false
}

// byteRange is what a request wants of size bytes.
type byteRange struct{ offset, length int64 }

// parseRange returns the range of a request, or the whole where it has none, several, or one that is not of bytes. ok is false if
// nothing of the range is there.
func parseRange(header string, size int64) (r byteRange, part, ok bool) {
	whole := byteRange{0, size}
	unit, spec, _ := strings.Cut(header, "=")
	if !strings.EqualFold(strings.TrimSpace(unit), "bytes") || strings.Contains(spec, ",") || size == 0 {
		return whole, false, true
	}
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !dash {
		return whole, false, true
	}
	if first == "" {
		n, err := parsePosition(last)
		if err != nil {
			return whole, false, true
		}
		n = min(n, size)
		return byteRange{size - n, n}, true, n > 0
	}
	from, err := parsePosition(first)
	if err != nil {
		return whole, false, true
	}
	to := size - 1
	if last != "" {
		if to, err = parsePosition(last); err != nil || to < from {
			return whole, false, true
		}
	}
	if from >= size {
		return byteRange{}, true, false
	}
	return byteRange{from, min(to, size-1) - from + 1}, true, true
}

// parsePosition takes digits alone. What is too large for a number is as far away as can be.
func parsePosition(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil && n > 0 {
		return 1<<63 - 1, nil
	}
	return int64(n), err
}

// of returns the range as Content-Range has it.
func (r byteRange) of(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", r.offset, r.offset+r.length-1, size)
}
