package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"strings"
	"testing"

	"plinth/internal/errs"
)

const boundary = "xxBOUNDARYxx"

const formType = "multipart/form-data; boundary=" + boundary

// written returns a form with fields, and a file as its last part.
func written(t *testing.T, content []byte, fields ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.SetBoundary(boundary)
	for i := 0; i < len(fields); i += 2 {
		_ = w.WriteField(fields[i], fields[i+1])
	}
	part, err := w.CreateFormFile("file", "a.bin")
	if err == nil {
		_, err = part.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The length of the file follows from that of the form, but for a line break that may be missing at its end.
func TestFormLength(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 2, 3, 4095, 4096, 5000, 200_000} {
		content := bytes.Repeat([]byte("\r\n--xxBOUNDARY"), size/14+1)[:size]
		for _, fields := range [][]string{nil, {"a", "1", "b", strings.Repeat("x", 4000) + "\r\n--xx\r\n"}, {"empty", ""}} {
			whole := written(t, content, fields...)
			for _, cut := range []int{0, 2} {
				body := whole[:len(whole)-cut]
				f, err := readForm(formType, bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				length, slack, ok := f.size(int64(len(body)))
				if !ok || int(length) > size || int(length)+slack < size || cut == 0 && int(length) != size {
					t.Errorf("%d bytes, %d fields, %d cut: %d and %d more, %v", size, len(fields)/2, cut, length, slack, ok)
				}
				got, err := io.ReadAll(f.content)
				if err != nil || !bytes.Equal(got, content) || f.filename != "a.bin" || len(f.fields) != len(fields)/2 {
					t.Errorf("%d bytes: %d came as %q with %d fields, %v", size, len(got), f.filename, len(f.fields), err)
				}
				for i := 0; i < len(fields); i += 2 {
					if f.fields[fields[i]] != fields[i+1] {
						t.Errorf("%s is %q", fields[i], f.fields[fields[i]])
					}
				}
			}
		}
	}
}

// counted counts what is read.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func TestHostileForms(t *testing.T) {
	t.Parallel()
	open := "--" + boundary + "\r\n"
	file := open + "Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
	end := "\r\n--" + boundary + "--\r\n"
	var fields strings.Builder
	for i := range maxAttributes + 2 { // A field ends where the next one begins.
		fmt.Fprintf(&fields, "%sContent-Disposition: form-data; name=\"%d\"\r\n\r\n1\r\n", open, i)
	}
	for name, test := range map[string]struct {
		contentType string
		body        io.Reader
		want        string
	}{
		"no file":           {formType, strings.NewReader(open + "Content-Disposition: form-data; name=\"a\"\r\n\r\n1" + end), "file"},
		"nothing":           {formType, strings.NewReader(""), "file"},
		"no boundary":       {"multipart/form-data", strings.NewReader(file), "boundary"},
		"a long boundary":   {"multipart/form-data; boundary=" + strings.Repeat("x", 71), strings.NewReader(file), "boundary"},
		"a nameless part":   {formType, strings.NewReader(open + "A: b\r\n\r\n1" + end), "name"},
		"a broken name":     {formType, strings.NewReader(open + "Content-Disposition: form-data; name=\"file\"; filename=a b\r\n\r\n1" + end), "Content-Disposition"},
		"a coded file":      {formType, strings.NewReader(strings.Replace(file, "\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n", 1) + "1" + end), "Content-Encoding"},
		"a coded field":     {formType, strings.NewReader(open + "Content-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: BASE64\r\n\r\nMQ==\r\n" + file + "1" + end), "Content-Transfer-Encoding"},
		"a field twice":     {formType, strings.NewReader(strings.Repeat(open+"Content-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n", 2) + file + "1" + end), "more than once"},
		"two files":         {formType, strings.NewReader(file + "1\r\n" + file + "2" + end), "last"},
		"a field after it":  {formType, strings.NewReader(file + "1\r\n" + open + "Content-Disposition: form-data; name=\"a\"\r\n\r\n1" + end), "last"},
		"cut off":           {formType, strings.NewReader(file + "123"), "ends within"},
		"one long header":   {formType, io.MultiReader(strings.NewReader(open+"A: "), endless("x")), "16384"},
		"many headers":      {formType, io.MultiReader(strings.NewReader(open), endless("A: b\r\n")), "16384"},
		"an endless start":  {formType, endless("x"), "broken"},
		"an endless field":  {formType, io.MultiReader(strings.NewReader(open+"Content-Disposition: form-data; name=\"a\"\r\n\r\n"), endless("x")), "4096"},
		"too many fields":   {formType, strings.NewReader(fields.String()), "at most 64 fields"},
		"lines without end": {formType, io.MultiReader(strings.NewReader(open+"Content-Disposition: form-data; name=\"a\"\r\n\r\n"), endless("\r\n")), "4096"},
	} {
		body := &counted{Reader: test.body}
		f, err := readForm(test.contentType, body)
		if err == nil {
			_, err = io.Copy(io.Discard, f.content)
		}
		if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), test.want) || body.n > 128<<10 {
			t.Errorf("%s: %v, after %d bytes", name, err, body.n)
		}
	}
	plain := strings.Replace(file, "\r\n\r\n", "\r\nContent-Encoding: identity\r\nContent-Transfer-Encoding: Binary\r\n\r\n", 1)
	if _, err := readForm(formType, strings.NewReader(plain+"1"+end)); err != nil {
		t.Errorf("a part that says that it is as it is: %v", err)
	}
	// The error of a body is not hidden by that of the parser.
	broken := errors.New("broken")
	for _, begun := range []string{"", open, file, file + "abc"} {
		f, err := readForm(formType, io.MultiReader(strings.NewReader(begun), failing{broken}))
		if err == nil {
			_, err = io.Copy(io.Discard, f.content)
		}
		if !errors.Is(err, broken) {
			t.Errorf("after %q: %v", begun, err)
		}
	}
}

// A part of a file, or bytes in an encoding, would be stored as if they were the file.
func TestOnlyWholeFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t, Limits{})
	for _, header := range []string{"Content-Range", "Content-Encoding"} {
		res, text := s.do(t, "PUT", "/api/v1/upload/a", strings.NewReader("x"), header, "bytes 0-0/10")
		wantError(t, res, text, 400, "invalid_argument", header)
	}
	if res, text := s.do(t, "PUT", "/api/v1/upload/a", strings.NewReader("x"), "Content-Encoding", "identity"); res.StatusCode != 200 {
		t.Errorf("identity: %s %s", res.Status, text)
	}
}
