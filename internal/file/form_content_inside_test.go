package file

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// The content of a form is what mime/multipart takes for it, wherever delimiters, or what looks like them, are.
func TestFormsAreReadAsByTheLibrary(t *testing.T) {
	t.Parallel()
	words := []string{"\r\n--" + boundary, "\n--" + boundary, "--" + boundary, "--", "\r\n", "\n", "\r", "-", " ", "a", boundary, strings.Repeat("b", blockSize-9)}
	whole := 0
	for n := range 5_000 {
		lineBreak := "\r\n"
		if n%4 == 0 {
			lineBreak = "\n"
		}
		var b strings.Builder
		b.WriteString("--" + boundary + lineBreak + `Content-Disposition: form-data; name="file"; filename="a"` + lineBreak + lineBreak)
		for range rand.IntN(6) {
			most := len(words)
			if rand.IntN(50) > 0 {
				most--
			}
			b.WriteString(words[rand.IntN(most)])
		}
		if rand.IntN(3) > 0 {
			b.WriteString(lineBreak + "--" + boundary + "--" + lineBreak)
		}
		want, wantErr := byLibrary(b.String() + lineBreak + "A: b" + lineBreak + lineBreak) // It takes a form that ends in its last line.
		var body io.Reader = strings.NewReader(b.String())
		switch rand.IntN(3) {
		case 0:
			body = iotest.OneByteReader(body)
		case 1:
			body = iotest.DataErrReader(body)
		}
		f, err := readForm(formType, body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f.content)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%.300q: %d bytes %.100q, %v; by the library %d bytes %.100q, %v", b.String(), len(got), got, err, len(want), want, wantErr)
		}
		if err == nil {
			whole++
		}
	}
	if whole < 300 {
		t.Errorf("only %d forms were whole", whole)
	}
}

// byLibrary returns the content of the only part of a form, which must end behind it.
func byLibrary(form string) ([]byte, error) {
	r := multipart.NewReader(strings.NewReader(form), boundary)
	part, err := r.NextRawPart()
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(part)
	if err != nil {
		return nil, err
	}
	if _, err = r.NextRawPart(); err == nil {
		return nil, errors.New("another part")
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return content, nil
}

// A form has ended with its last boundary: nothing behind it is waited for.
func TestFormsEndWithTheirBoundary(t *testing.T) {
	t.Parallel()
	body, sender := io.Pipe()
	go func() { _, _ = sender.Write(written(t, []byte("content"))) }()
	f, err := readForm(formType, body)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(f.content)
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it waits for more")
	}
	_ = sender.Close()
}
