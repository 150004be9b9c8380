package app

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"plinth/internal/errs"
	"plinth/web"
)

// builtWith returns the files of a console whose script is that text.
func builtWith(script string) fstest.MapFS {
	page := &fstest.MapFile{Data: []byte(`<script src="./index.js"></script></head>`)}
	return fstest.MapFS{"index.html": page, "docs.html": page, "index.js": {Data: []byte(script)}}
}

// ask asks an asset of the console, as a path after /assets/.
func (c *console) ask(t *testing.T, version, name string, header ...string) (*http.Response, string, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetPathValue("version", version)
	r.SetPathValue("name", name)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	err := c.serveAsset(w, r)
	return w.Result(), w.Body.String(), err
}

// A file is kept by browsers for good, so another build must have it at another place.
func TestConsoleAssets(t *testing.T) {
	t.Parallel()
	script := strings.Repeat("console.log('one');", 100)
	one, err := newConsole(builtWith(script), signInAt{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := newConsole(builtWith("console.log('two');"), signInAt{})
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := newConsole(builtWith(script), signInAt{}); again.version != one.version || two.version == one.version {
		t.Errorf("the versions are %s, %s for the same build, and %s for another", one.version, again.version, two.version)
	}
	if page := string(one.files["index.html"].content); page != `<script src="/assets/`+one.version+`/index.js"></script></head>` {
		t.Errorf("the page is %s", page)
	}
	res, body, err := one.ask(t, one.version, "index.js")
	if err != nil || body != script || res.Header.Get("Cache-Control") != "public, max-age=31536000, immutable" ||
		res.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("%v, %v, %q", err, res.Header, body)
	}
	if res, body, _ := one.ask(t, one.version, "index.js", "If-None-Match", `"x", W/`+res.Header.Get("ETag")); res.StatusCode != http.StatusNotModified || body != "" {
		t.Errorf("what is known is answered %d %q", res.StatusCode, body)
	}
	for _, asked := range [][2]string{{two.version, "index.js"}, {one.version, "nope.js"}, {one.version, "index.html"}, {one.version, "../index.js"}} {
		if _, _, err := one.ask(t, asked[0], asked[1]); !errs.Is(err, errs.NotFound) {
			t.Errorf("%s: %v", asked, err)
		}
	}
	if res, _, _ := one.ask(t, one.version, "index.js", "Accept-Encoding", "br, gzip; Q=0"); res.Header.Get("Content-Encoding") != "" {
		t.Error("it comes compressed to who refuses that")
	}
	res, body, err = one.ask(t, one.version, "index.js", "Accept-Encoding", "br, gzip;q=0.5")
	if err != nil || res.Header.Get("Content-Encoding") != "gzip" || len(body) >= len(script) {
		t.Fatalf("%v, %v, %d bytes", err, res.Header, len(body))
	}
	unpacked, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(unpacked); string(got) != script {
		t.Errorf("unpacked it is %q", got)
	}
}

func TestConsoleOfABrokenBuild(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(fstest.MapFS){
		"no page":      func(b fstest.MapFS) { delete(b, "index.html") },
		"unknown type": func(b fstest.MapFS) { b["x.exe"] = &fstest.MapFile{} },
	} {
		broken := builtWith("")
		spoil(broken)
		if _, err := newConsole(broken, signInAt{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The pages of the build hold no script and no style of their own, which their policy would refuse, and name nothing elsewhere.
func TestBuiltPages(t *testing.T) {
	t.Parallel()
	inline := regexp.MustCompile(`(?i)<script(?:\s[^>]*)?>[^<]|<script>|<style|\son[a-z]+=|\sstyle=|javascript:|(?:src|href)="(?:https?:)?//`)
	for _, page := range []string{"index.html", "docs.html"} {
		content, err := fs.ReadFile(web.Dist(), page)
		if err != nil {
			t.Fatal(err)
		}
		if found := inline.Find(content); found != nil || !bytes.Contains(content, []byte(`type="module"`)) {
			t.Errorf("%s has %q, in\n%s", page, found, content)
		}
	}
	if _, err := newConsole(web.Dist(), signInAt{}); err != nil {
		t.Error(err)
	}
}

// Where to sign in is in the page alone, as text, and the page may call that origin and no other.
func TestConsoleSignInAt(t *testing.T) {
	t.Parallel()
	at := (&authConfig{JWTIssuer: "https://ID.example.com:8443/realms/a", ConsoleClientID: `<a"b>`, ConsoleScopes: " openid  email"}).signInAt()
	with, err := newConsole(builtWith(""), at)
	if err != nil {
		t.Fatal(err)
	}
	without, err := newConsole(builtWith(""), (&authConfig{JWTIssuer: "https://id.example.com", ConsoleScopes: "openid"}).signInAt())
	if err != nil {
		t.Fatal(err)
	}
	if with.files["index.html"].etag == without.files["index.html"].etag {
		t.Error("browsers do not see that the page is another one")
	}
	const meta = `<meta name="plinth-sign-in" content="{&#34;issuer&#34;:&#34;https://ID.example.com:8443/realms/a&#34;,` +
		`&#34;clientId&#34;:&#34;\u003ca\&#34;b\u003e&#34;,&#34;scopes&#34;:&#34;openid email&#34;}" /></head>`
	if page := string(with.files["index.html"].content); !strings.HasSuffix(page, meta) {
		t.Errorf("the page is %s", page)
	}
	for _, page := range [][]byte{without.files["index.html"].content, with.files["docs.html"].content} {
		if bytes.Contains(page, []byte("<meta")) {
			t.Errorf("a page that has nothing to tell is %s", page)
		}
	}
	for _, c := range []struct {
		console      *console
		path, expect string
	}{
		{with, "GET /queues", "connect-src 'self' https://id.example.com:8443"}, {with, "GET /", "connect-src 'self' https://id.example.com:8443"},
		{with, "GET /docs", "connect-src 'self'"}, {without, "GET /", "connect-src 'self'"},
	} {
		for _, route := range c.console.routes() {
			if route.Pattern != c.path {
				continue
			}
			w := httptest.NewRecorder()
			if err := route.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil)); err != nil {
				t.Fatal(err)
			}
			if policy := w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "; "+c.expect+"; ") {
				t.Errorf("%s has the policy %s, want %s", c.path, policy, c.expect)
			}
		}
	}
}
