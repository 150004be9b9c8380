package file

import (
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/gabriel-vasile/mimetype"

	"plinth/internal/errs"
)

// sniffed is how many of its first bytes say what a file is.
const sniffed = 3072

const (
	unknownType = "application/octet-stream"
	plainText   = "text/plain"
)

// active are the types that a browser runs, or reads as something that may run.
var active = []string{"text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml", "text/javascript", "application/javascript", "text/xsl"}

// parseType returns a declared type in its canonical form; empty is none. Errors: InvalidArgument.
func parseType(declared string) (string, error) {
	if declared == "" {
		return "", nil
	}
	base, params, err := mime.ParseMediaType(declared)
	if err != nil || !strings.Contains(base, "/") || len(declared) > maxName {
		return "", errs.New(errs.InvalidArgument, "content_type: %.64q is not a media type such as image/png", declared)
	}
	return mime.FormatMediaType(base, params), nil
}

// contentType returns what a file is, from its first bytes and from what the client said. What looks active is taken to be. The
// declared type counts where it is a kind of what was seen: a document within an archive, a format of text.
func contentType(head []byte, declared string) string {
	if len(head) == 0 {
		if declared == "" {
			return unknownType
		}
		return declared
	}
	seen, other := mimetype.Detect(head), http.DetectContentType(head)
	base := baseType(seen.String())
	switch {
	case slices.Contains(active, base):
		return seen.String()
	case slices.Contains(active, baseType(other)):
		return other
	case declared == "" || baseType(declared) == unknownType:
		return seen.String()
	case baseType(declared) == base || isKind(declared, base):
		return declared
	default:
		return seen.String()
	}
}

// isKind reports whether a declared type is a kind of the one that was seen.
func isKind(declared, seen string) bool {
	declared = baseType(declared)
	if seen == plainText && strings.HasPrefix(declared, "text/") || seen == unknownType {
		return true
	}
	for t := mimetype.Lookup(declared); t != nil; t = t.Parent() {
		if t.Is(seen) {
			return true
		}
	}
	return false
}

func baseType(t string) string {
	base, _, _ := strings.Cut(t, ";")
	return strings.ToLower(strings.TrimSpace(base))
}
