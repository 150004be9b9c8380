package file

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"strings"

	"plinth/internal/errs"
)

const (
	// maxPartHeader bounds the header of a part, and what stands before the first one. mime/multipart allows 10 MiB.
	maxPartHeader = 16 << 10
	maxBoundary   = 70 // RFC 2046 §5.1.1
)

// form is a multipart/form-data body, whose last part is the file.
type form struct {
	gate     *gate
	parts    *multipart.Reader
	boundary string
	fields   map[string]string
	filename string
	declared string
	content  *lastPart
}

// readForm reads a form as far as the content of its file. Errors: InvalidArgument; those of body.
func readForm(contentType string, body io.Reader) (*form, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	boundary := params["boundary"]
	switch {
	case err != nil || kind != "multipart/form-data":
		return nil, errs.New(errs.InvalidArgument, "Content-Type: multipart/form-data with a boundary is allowed")
	case boundary == "" || len(boundary) > maxBoundary:
		return nil, errs.New(errs.InvalidArgument, "Content-Type: a boundary of 1 to %d characters is needed", maxBoundary)
	}
	g := &gate{body: bufio.NewReaderSize(body, blockSize)}
	f := &form{gate: g, parts: multipart.NewReader(g, boundary), boundary: boundary, fields: map[string]string{}}
	for range maxAttributes + 1 {
		part, err := f.next()
		if errors.Is(err, io.EOF) {
			return nil, errs.New(errs.InvalidArgument, "file: the form has no part of this name")
		}
		if err != nil {
			return nil, err
		}
		if part.FormName() == "file" {
			f.take(part)
			return f, nil
		}
		if err := f.field(part); err != nil {
			return nil, err
		}
	}
	return nil, errs.New(errs.InvalidArgument, "attributes: at most %d fields are allowed before the file", maxAttributes)
}

// next returns the next part.
func (f *form) next() (*multipart.Part, error) {
	f.gate.header(maxPartHeader)
	part, err := f.parts.NextRawPart()
	switch {
	case f.gate.err != nil:
		return nil, f.gate.err
	case err != nil && !errors.Is(err, io.EOF):
		return nil, errs.Wrap(err, errs.InvalidArgument, "the form is broken: its parts cannot be told apart")
	case err != nil:
		return nil, err
	}
	return part, checkCodings(part.Header)
}

// checkCodings returns an error for a part that is not what its bytes are as they come.
func checkCodings(h textproto.MIMEHeader) error {
	if err := checkEncoding(h.Get("Content-Encoding")); err != nil {
		return err
	}
	switch strings.ToLower(h.Get("Content-Transfer-Encoding")) { // Obsolete in forms (RFC 7578 §4.7).
	case "", "binary", "8bit", "7bit":
		return nil
	}
	return errs.New(errs.InvalidArgument, "Content-Transfer-Encoding: the bytes of a part are taken as they come, so only binary is allowed")
}

// field reads an attribute.
func (f *form) field(part *multipart.Part) error {
	name := part.FormName()
	if _, _, err := mime.ParseMediaType(part.Header.Get("Content-Disposition")); name == "" && err != nil {
		return errs.Wrap(err, errs.InvalidArgument,
			`Content-Disposition: that of a part does not parse; form-data; name="file"; filename="a.txt" is allowed`)
	}
	if name == "" {
		return errs.New(errs.InvalidArgument, "the form has a part without a name")
	}
	if _, ok := f.fields[name]; ok {
		return errs.New(errs.InvalidArgument, "attributes: the form has %.64q more than once", name)
	}
	f.gate.header(maxPartHeader + maxAttributeValue) // Nothing is read past the field, either.
	value, err := io.ReadAll(io.LimitReader(part, maxAttributeValue+1))
	switch {
	case f.gate.err != nil:
		return f.gate.err
	case err != nil:
		return errs.Wrap(err, errs.InvalidArgument, "the form is broken: it ends within a part")
	case len(value) > maxAttributeValue:
		return errs.New(errs.InvalidArgument, "attributes: the value of %.64q has more than %d bytes", name, maxAttributeValue)
	}
	f.fields[name] = string(value)
	return nil
}

func (f *form) take(part *multipart.Part) {
	_, params, _ := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	f.filename, f.declared = params["filename"], textproto.TrimString(part.Header.Get("Content-Type"))
	f.content = newLastPart(f.gate.body, f.gate.lineBreak, f.boundary)
}

// size returns how long the file is if the form has length bytes and ends with it, and how many bytes more it may have. The last
// line break of a form may be left out (RFC 2046 §5.1.1). The content is an error from then on if it ends before that length.
func (f *form) size(length int64) (size int64, slack int, ok bool) {
	size = length - f.gate.given - int64(len("\r\n--")+len(f.boundary)+len("--\r\n"))
	f.content.least = max(size, 0)
	return f.content.least, len("\r\n") + int(min(size, 0)), size >= -int64(len("\r\n"))
}

// gate stands before the parser of a form, which gets one line at a time, so that nothing is read past a header, and no more than a
// limit. It keeps the error of the body, which the parser may hide.
type gate struct {
	body      *bufio.Reader
	given     int64  // bytes
	limit     int    // of the header that is being read
	lineBreak string // of the last line
	err       error
}

func (g *gate) header(limit int) { g.limit = limit }

func (g *gate) Read(p []byte) (n int, err error) {
	n, err = g.line(p)
	g.given += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		g.err = err
	}
	return n, err
}

// line reads the rest of a line, or as much of it as there is room for.
func (g *gate) line(p []byte) (n int, err error) {
	if g.limit == 0 {
		return 0, errs.New(errs.InvalidArgument, "the header of a part of the form has more than %d bytes", maxPartHeader)
	}
	p = p[:min(len(p), g.limit)]
	for n < len(p) {
		b, err := g.body.ReadByte()
		if err != nil {
			return n, err
		}
		p[n] = b
		n++
		if b == '\n' {
			g.lineBreak = "\n"
			if bytes.HasSuffix(p[:n], []byte("\r\n")) {
				g.lineBreak = "\r\n"
			}
			break
		}
	}
	g.limit -= n
	return n, nil
}
