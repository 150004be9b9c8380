package file

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

// Limits of names and attributes, in bytes.
const (
	maxName           = 255
	maxFolder         = 512
	maxAttributes     = 64
	maxAttributeKey   = 128
	maxAttributeValue = 4096
	maxAttributeBytes = 16 << 10
)

// ParseName returns the name of a file: the last part of a path of any system, in Unicode's form NFC, without controls of the
// direction of text. Errors: InvalidArgument for a name that is empty, "." or "..", over 255 bytes, no UTF-8, or has control
// characters.
func ParseName(text string) (string, error) {
	if i := strings.LastIndexAny(text, `/\`); i >= 0 {
		text = text[i+1:]
	}
	return parsePart("filename", text)
}

func parsePart(field, text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", errs.New(errs.InvalidArgument, "%s: it is not UTF-8", field)
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return "", errs.New(errs.InvalidArgument, "%s: control characters are not allowed", field)
	}
	name := strings.TrimSpace(norm.NFC.String(strings.Map(func(r rune) rune {
		if isDirection(r) {
			return -1
		}
		return r
	}, text)))
	switch {
	case name == "":
		return "", errs.New(errs.InvalidArgument, "%s: a name of 1 to %d bytes is needed", field, maxName)
	case name == "." || name == "..":
		return "", errs.New(errs.InvalidArgument, "%s: %q is no name", field, name)
	case len(name) > maxName:
		return "", errs.New(errs.InvalidArgument, "%s: it has %d bytes; at most %d are allowed", field, len(name), maxName)
	}
	return name, nil
}

// isDirection reports whether a character changes the direction of the text around it, so that a name looks like another.
func isDirection(r rune) bool {
	return r == '\u061c' || r == '\u200e' || r == '\u200f' || '\u202a' <= r && r <= '\u202e' || '\u2066' <= r && r <= '\u2069'
}

// ParseFolder returns a folder: names as ParseName has them, with "/" between them. Slashes at both ends are dropped; empty is no
// folder. Errors: InvalidArgument.
func ParseFolder(text string) (string, error) {
	text = strings.Trim(text, "/")
	if text == "" {
		return "", nil
	}
	parts := strings.Split(text, "/")
	for i, part := range parts {
		name, err := parsePart("folder", part)
		if err != nil {
			return "", err
		}
		parts[i] = name
	}
	folder := strings.Join(parts, "/")
	if len(folder) > maxFolder {
		return "", errs.New(errs.InvalidArgument, "folder: it has %d bytes; at most %d are allowed", len(folder), maxFolder)
	}
	return folder, nil
}

// checkAttributes returns an error for attributes that are too many, too large or no text.
func checkAttributes(attributes map[string]string) error {
	if len(attributes) > maxAttributes {
		return errs.New(errs.InvalidArgument, "attributes: %d are too many; at most %d are allowed", len(attributes), maxAttributes)
	}
	size := 0
	for key, value := range attributes {
		size += len(key) + len(value)
		switch {
		case key == "" || len(key) > maxAttributeKey || !pg.IsText(key):
			return errs.New(errs.InvalidArgument, "attributes: %.64q is not allowed: keys have 1 to %d bytes of UTF-8", key, maxAttributeKey)
		case len(value) > maxAttributeValue || !pg.IsText(value):
			return errs.New(errs.InvalidArgument, "attributes: the value of %.64q is not allowed: values have up to %d bytes of UTF-8", key, maxAttributeValue)
		}
	}
	if size > maxAttributeBytes {
		return errs.New(errs.InvalidArgument, "attributes: %d bytes; at most %d are allowed together", size, maxAttributeBytes)
	}
	return nil
}
