package outbound

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"plinth/internal/errs"
)

// Limits of what a request may have.
const (
	MaxURL     = 2048    // bytes
	MaxHeaders = 64      // fields
	MaxHeader  = 8 << 10 // bytes of all names and values
	MaxBody    = 4 << 20 // bytes
)

// ParseURL parses a URL that the client may call: http or https, a host, no user and no fragment, and no address that is refused.
// The error is of kind InvalidArgument, begins with the name of the field, and does not repeat the URL.
func (c *Client) ParseURL(field, text string) (*url.URL, error) {
	wrong := func(format string, args ...any) *errs.Error {
		return errs.New(errs.InvalidArgument, "%s: %s", field, fmt.Sprintf(format, args...))
	}
	if len(text) > MaxURL {
		return nil, wrong("has %d bytes, at most %d are allowed", len(text), MaxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Hostname() == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, wrong("is not a URL such as https://example.com/path")
	}
	switch port, err := strconv.Atoi(u.Port()); {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, wrong("begins with neither https:// nor http://")
	case u.User != nil:
		return nil, wrong("has a user or a password before the host; send them in a header")
	case strings.Contains(text, "#"):
		return nil, wrong("has a fragment, which is not sent")
	case u.Port() != "" && (err != nil || port < 1 || port > 65535):
		return nil, wrong("has a port that is not within 1-65535")
	}
	var r *refusal
	if err := c.guard.checkHost(u.Hostname()); errors.As(err, &r) {
		return nil, wrong("%s is %s, which is not allowed", u.Hostname(), r.kind).Because(addressRefused)
	} else if err != nil {
		return nil, wrong("the host %s %v", u.Hostname(), err)
	}
	return u, nil
}

// ParseProxy parses the URL of a proxy: http, https, socks5 or socks5h, maybe with a user and a password. It returns nil for an empty
// text. The error does not repeat the URL, and follows the name of a setting.
func ParseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("is not a proxy such as http://user:password@host:3128; it takes http://, https:// and socks5://")
	}
	return u, nil
}

// ownHeaders are set by the client or by HTTP itself.
var ownHeaders = []string{
	"Host", "Connection", "Content-Length", "Transfer-Encoding", "Upgrade", "Te", "Trailer", "Keep-Alive", "Expect", "Proxy-Authorization",
	"Proxy-Connection", "Accept-Encoding", "Traceparent", "Tracestate", headerID, headerTimestamp, headerSignature,
}

// ParseHeaders returns header fields to send. The error is of kind InvalidArgument, begins with the name of the field, and does
// not repeat values.
func ParseHeaders(field string, fields map[string]string) (http.Header, error) {
	wrong := func(format string, args ...any) error {
		return errs.New(errs.InvalidArgument, "%s: %s", field, fmt.Sprintf(format, args...))
	}
	if len(fields) > MaxHeaders {
		return nil, wrong("has %d fields, at most %d are allowed", len(fields), MaxHeaders)
	}
	header, size := http.Header{}, 0
	for name, value := range fields {
		key := http.CanonicalHeaderKey(name)
		size += len(name) + len(value)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return nil, wrong("%q is no name of a header field", errs.Shortened(name, 64))
		case slices.Contains(ownHeaders, key):
			return nil, wrong("%s is set by the service", key)
		case header[key] != nil:
			return nil, wrong("%s is there twice", key)
		case !httpguts.ValidHeaderFieldValue(value):
			return nil, wrong("the value of %s has a character that is not allowed", key)
		case size > MaxHeader:
			return nil, wrong("names and values have more than %d bytes", MaxHeader)
		}
		header[key] = []string{value}
	}
	return header, nil
}
