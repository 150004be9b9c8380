package file

import (
	"slices"
	"strings"
)

// inline are the types that a browser may show within a page's origin: none of them can run.
var inline = []string{
	"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "text/plain",
	"audio/mpeg", "audio/mp4", "audio/ogg", "audio/wav", "audio/webm", "audio/flac", "video/mp4", "video/webm", "video/ogg",
}

// mayShow reports whether a file of a type may be shown by a browser rather than saved.
func mayShow(contentType string) bool { return slices.Contains(inline, baseType(contentType)) }

// disposition returns the value of Content-Disposition (RFC 6266): for old clients a name of ASCII, for all others the whole one,
// as RFC 8187 has it. No name needs a backslash or a percent sign in the first form.
func disposition(kind, name string) string {
	var ascii, whole strings.Builder
	same := true
	for _, r := range name {
		if r < ' ' || r > '~' || r == '"' || r == '\\' || r == '%' {
			ascii.WriteByte('_')
			same = false
		} else {
			ascii.WriteRune(r)
		}
	}
	value := kind + `; filename="` + ascii.String() + `"`
	if same {
		return value
	}
	for _, b := range []byte(name) {
		if isAttrChar(b) {
			whole.WriteByte(b)
		} else {
			const hex = "0123456789ABCDEF"
			whole.Write([]byte{'%', hex[b>>4], hex[b&15]})
		}
	}
	return value + "; filename*=UTF-8''" + whole.String()
}

// isAttrChar is attr-char of RFC 8187.
func isAttrChar(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("!#$&+-.^_`|~", b) >= 0
}
