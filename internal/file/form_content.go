package file

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"plinth/internal/errs"
)

// lastPart is the content of the file of a form, behind whose end the form must end. The content ends before the delimiter: a line
// break, two hyphens and the boundary (RFC 2046 §5.1.1). mime/multipart would look for that in 4 KiB at a time.
type lastPart struct {
	body      *bufio.Reader
	lineBreak string // of the form
	delimiter []byte
	begun     bool
	content   int   // how many bytes at the front of body are known to be content
	read      int64 // bytes
	least     int64 // how many there are if the form ends with its last boundary; see form.size
	ended     error // once all content was read
}

func newLastPart(body *bufio.Reader, lineBreak, boundary string) *lastPart {
	return &lastPart{body: body, lineBreak: lineBreak, delimiter: []byte(lineBreak + "--" + boundary)}
}

func (p *lastPart) Read(b []byte) (int, error) {
	if p.content == 0 && p.ended == nil {
		p.ended = p.scan()
	}
	if p.content == 0 {
		return 0, p.ended
	}
	n, err := p.body.Read(b[:min(len(b), p.content)]) // They are in its buffer.
	p.content, p.read = p.content-n, p.read+int64(n)
	return n, err
}

// scan looks for the delimiter in what has come, and sets content. At the delimiter it returns how the form ends.
func (p *lastPart) scan() error {
	_, err := p.body.Peek(len(p.delimiter) + len("--"))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	came, _ := p.body.Peek(p.body.Buffered())
	if short := p.delimiter[len(p.lineBreak):]; !p.begun && bytes.HasPrefix(came, short) && isBoundary(came[len(short):]) {
		_, _ = p.body.Discard(len(short)) // Without content, the line break may be the one of the header.
		return p.end()
	}
	p.begun = true
	for from := 0; ; from++ {
		i := bytes.Index(came[from:], p.delimiter)
		if i < 0 {
			break
		}
		from += i
		rest := came[from+len(p.delimiter):]
		switch {
		case len(rest) < len("--") && err == nil:
			p.content = from // What follows has yet to come.
			return nil
		case !isBoundary(rest): // It is the beginning of a longer word.
		case from > 0:
			p.content = from
			return nil
		default:
			_, _ = p.body.Discard(len(p.delimiter))
			return p.end()
		}
	}
	switch {
	case err == nil:
		p.content = len(came) - (len(p.delimiter) - 1) // The rest may be the beginning of the delimiter.
	case len(came) > 0:
		p.content = len(came)
	default:
		return errs.New(errs.InvalidArgument, "the form is broken: it ends within the file")
	}
	return nil
}

// isBoundary reports whether a boundary is one, by what follows it.
func isBoundary(rest []byte) bool {
	return len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0 || string(rest) == "-" || bytes.HasPrefix(rest, []byte("--"))
}

// end reads the rest of the line of a delimiter. It returns io.EOF if that ends the form.
func (p *lastPart) end() error {
	line, err := p.body.ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return err
	}
	text, whole := strings.CutSuffix(string(line), p.lineBreak)
	switch strings.TrimRight(text, " \t") {
	case "--":
		if whole || err != nil {
			return p.epilogue()
		}
	case "":
		if _, err := p.body.Peek(1); whole && err == nil {
			return errs.New(errs.InvalidArgument, "file: it must be the last part of the form, and there must be one only")
		}
	}
	return errs.New(errs.InvalidArgument, "the form is broken: it does not end with its boundary and two hyphens")
}

// epilogue returns io.EOF, or an error if there is more after the last boundary than the length of the form has room for. RFC 2046 allows
// an epilogue, but the length of the file does not follow from that of such a form.
func (p *lastPart) epilogue() error {
	if more := p.least - p.read; more > 0 {
		return errs.New(errs.InvalidArgument, "the form has %d bytes after its last boundary: it must end with that, or be sent without a Content-Length", more)
	}
	return io.EOF
}
