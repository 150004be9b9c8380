package app

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"plinth/internal/errs"
	"plinth/internal/rpc"
)

// Policies of the pages. All that they load comes from here, they hold no inline script or style, and no text of a message or a
// file can become one. The page of the document makes its policies of trusted types for the library that shows it.
const (
	pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; base-uri 'none'; " +
		"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
	consolePolicy = pagePolicy + "img-src 'self' blob:; frame-src blob:; trusted-types 'none'"
	docsPolicy    = pagePolicy + "img-src 'self' data:; trusted-types default dompurify"
)

// signInAt is where people sign in to the console beside API keys. Everybody may read it, as it is in the page. The zero value is nowhere.
type signInAt struct {
	Issuer   string `json:"issuer"`
	ClientID string `json:"clientId"`
	Scopes   string `json:"scopes"`
}

// signInAt returns the issuer at which the console signs people in, if it does.
func (c *authConfig) signInAt() signInAt {
	if c.ConsoleClientID == "" {
		return signInAt{}
	}
	return signInAt{c.JWTIssuer, c.ConsoleClientID, strings.Join(strings.Fields(c.ConsoleScopes), " ")}
}

// meta is the element that tells the console's script.
func (s signInAt) meta() string {
	told, _ := json.Marshal(s) // Strings alone, so it cannot fail.
	return `<meta name="plinth-sign-in" content="` + html.EscapeString(string(told)) + `" />`
}

// policy returns the policy of the console. Its calls may go to the issuer's origin, where codes are exchanged for tokens, and nowhere else.
func (s signInAt) policy() string {
	if s.Issuer == "" {
		return consolePolicy
	}
	return strings.Replace(consolePolicy, "connect-src 'self'", "connect-src 'self' "+originOf(s.Issuer), 1)
}

// consolePaths are the pages of the console. Its script finds out which one it shows, so that each can be linked to.
var consolePaths = []string{"", "queues", "schedules", "files", "channels", "cache", "locks", "tenants", "settings"}

// contentTypes are those of the files of a build, which has no others.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
	".txt":  "text/plain; charset=utf-8",
}

// console is the console and the page of the OpenAPI document: static files, the same for everybody. Their data they get from the
// API, as any client does.
//
// The files have the same names in every build, and are served below a hash of all of them. So browsers keep them for good, and
// a page loads files of its own build or none.
type console struct {
	version string
	policy  string // of the console; the page of the document has its own
	files   map[string]*staticFile
}

// newConsole reads the files of a build, and has its page tell where to sign in.
func newConsole(built fs.FS, at signInAt) (*console, error) {
	c := &console{files: map[string]*staticFile{}, policy: at.policy()}
	sum := sha256.New()
	err := fs.WalkDir(built, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if contentTypes[path.Ext(name)] == "" {
			return fmt.Errorf("%s is of no known type", name)
		}
		content, err := fs.ReadFile(built, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(content), content)
		c.files[name] = newStaticFile(contentTypes[path.Ext(name)], content)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the console: %w", err)
	}
	if index := c.files["index.html"]; index != nil && at.Issuer != "" {
		content := bytes.Replace(index.content, []byte("</head>"), []byte(at.meta()+"</head>"), 1)
		if len(content) == len(index.content) {
			return nil, fmt.Errorf("read the console: its page has no head")
		}
		c.files["index.html"] = newStaticFile(contentTypes[".html"], content)
	}
	c.version = hex.EncodeToString(sum.Sum(nil)[:10])
	for _, page := range []string{"index.html", "docs.html"} {
		f := c.files[page]
		if f == nil {
			return nil, fmt.Errorf("read the console: there is no %s", page)
		}
		// Built pages name their files relative to themselves. They are served at other places than those files.
		c.files[page] = newStaticFile(f.contentType, bytes.ReplaceAll(f.content, []byte(`="./`), []byte(`="/assets/`+c.version+`/`)))
	}
	return c, nil
}

// routes are the routes of the pages and their files. No other path is a page, so that unknown ones stay errors.
func (c *console) routes() []rpc.Route {
	page := func(name, policy string) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Content-Security-Policy", policy)
			w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
			w.Header().Set("Cache-Control", "no-cache")
			c.files[name].serve(w, r)
			return nil
		}
	}
	index := page("index.html", c.policy)
	routes := []rpc.Route{
		{Pattern: "GET /docs", Public: true, Serve: page("docs.html", docsPolicy)},
		{Pattern: "GET /assets/{version}/{name=**}", Public: true, Serve: c.serveAsset},
	}
	for _, first := range consolePaths {
		routes = append(routes, rpc.Route{Pattern: "GET /" + first, Public: true, Serve: index})
		if first != "" {
			routes = append(routes, rpc.Route{Pattern: "GET /" + first + "/{rest=**}", Public: true, Serve: index})
		}
	}
	return routes
}

// serveAsset serves a file that a page loads. A page of another build does not get it: it has to be loaded again.
func (c *console) serveAsset(w http.ResponseWriter, r *http.Request) error {
	f := c.files[r.PathValue("name")]
	if f == nil || r.PathValue("version") != c.version || strings.HasSuffix(r.PathValue("name"), ".html") {
		return errs.New(errs.NotFound, "the console has no such file: load the page again")
	}
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	f.serve(w, r)
	return nil
}
