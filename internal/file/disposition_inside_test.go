package file

import (
	"mime"
	"regexp"
	"strings"
	"testing"
)

// What clients read is the name, whichever of its two forms they know.
func TestDisposition(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^attachment; filename="[ !#$&-\[\]-~]*"(; filename\*=UTF-8''([A-Za-z0-9!#$&+.^_` + "`" + `|~-]|%[0-9A-F]{2})+)?$`)
	for _, name := range []string{
		"a.txt", "über 文件.pdf", "John's Resume.pdf", "report(1).pdf", `a"b\c.txt`, "100%.txt", "a{b}ü.txt", "a;b,c", "日本", "a*b'c",
	} {
		got := disposition("attachment", name)
		if !form.MatchString(got) {
			t.Errorf("%q: %s", name, got)
		}
		kind, params, err := mime.ParseMediaType(got)
		if err != nil || kind != "attachment" || params["filename"] != name {
			t.Errorf("%s is read as %q, %v; want %q", got, params["filename"], err, name)
		}
	}
}

// What may run is never shown.
func TestActiveIsNotShown(t *testing.T) {
	t.Parallel()
	for _, head := range []string{
		`<?xml version="1.0"?><!--` + strings.Repeat("x", 2000) + `--><svg xmlns="http://www.w3.org/2000/svg"><script/></svg>`,
		`<!--` + strings.Repeat("x", 5000) + `--><svg/>`, "<html>", "<script>1</script>", `<?xml version="1.0"?><a/>`,
	} {
		for _, declared := range []string{"", "image/png", "image/svg+xml", "text/xml"} {
			if got := contentType([]byte(head)[:min(len(head), sniffed)], declared); mayShow(got) && baseType(got) != "text/plain" {
				t.Errorf("%.30q declared %q is %q, which is shown", head, declared, got)
			}
		}
	}
}
