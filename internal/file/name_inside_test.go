package file

import (
	"strings"
	"testing"

	"plinth/internal/errs"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a.txt": "a.txt", "../../etc/passwd": "passwd", `C:\fakepath\a.txt`: "a.txt", "a/b.txt": "b.txt", " a b ": "a b",
		"e\u0301.txt": "\u00e9.txt", "a\u202etxt.exe": "atxt.exe", "\u200fx": "x", "über 文件.pdf": "über 文件.pdf", "...": "...",
		strings.Repeat("n", 255): strings.Repeat("n", 255),
	} {
		if got, err := ParseName(text); err != nil || got != want {
			t.Errorf("%q is %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ".", "..", "a/", "   ", "a\x00", "a\r\nb", "a\n", "\x7f", "\xff\xfe", "\xed\xa0\x80", "\u202e", strings.Repeat("n", 256), strings.Repeat("n", 4096),
	} {
		if got, err := ParseName(text); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "filename") {
			t.Errorf("%.20q is %q, %v", text, got, err)
		}
	}
}

func TestFolders(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", "/": "", "a": "a", "/a/b/": "a/b", "a / b": "a/b"} {
		if got, err := ParseFolder(text); err != nil || got != want {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"a//b", "../a", "a/./b", "a\x00", strings.Repeat("abc/", 200)} {
		if got, err := ParseFolder(text); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%.20q is %q, %v", text, got, err)
		}
	}
}

func TestContentType(t *testing.T) {
	t.Parallel()
	zip := "PK\x03\x04\x14\x00\x00\x00\x08\x00" + strings.Repeat("\x00", 16) + "\x05\x00\x00\x00a.txtx"
	png := "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
	docx := "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
	for _, test := range []struct{ head, declared, want string }{
		{"<!DOCTYPE html><script>alert(1)</script>", "image/png", "text/html; charset=utf-8"},
		{"<html><body>", "text/plain", "text/html; charset=utf-8"},
		{`<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>`, "image/svg+xml", "image/svg+xml"},
		{"\xef\xbb\xbf" + `<svg xmlns="http://www.w3.org/2000/svg"></svg>`, "image/svg+xml", "image/svg+xml"},
		{png, "image/png", "image/png"}, {png, "", "image/png"}, {png, "text/html", "image/png"}, {png, "application/octet-stream", "image/png"},
		{zip, docx, docx}, {zip, "application/zip", "application/zip"}, {zip, "image/png", "application/zip"},
		{"a,b\n1,2\n", "text/csv", "text/csv"}, {"# Title\n\nText", "text/markdown", "text/markdown"}, {`{"a":1}`, "application/json", "application/json"},
		{"hello", "", "text/plain; charset=utf-8"}, {"", "", "application/octet-stream"}, {"", "image/png", "image/png"},
	} {
		if got := contentType([]byte(test.head), test.declared); got != test.want {
			t.Errorf("%.20q declared %q is %q, want %q", test.head, test.declared, got, test.want)
		}
	}
}
