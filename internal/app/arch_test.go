package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The packages of internal/, by layer. Every other one is a domain.
var (
	foundation = []string{"errs", "auth", "observe", "pg", "kv", "loop", "ratelimit", "share", "blob", "broker", "resource", "cron", "outbound", "seal", "rpc"}
	others     = []string{"app", "dev", "e2e", "sample"}
	// edges are the imports from domain to domain. In addition, every domain may import tenant.
	edges = map[string][]string{"schedule": {"message"}, "file": {"message"}, "cache": {"message"}, "saga": {"message"}}
)

// place returns the folder of internal/ that a package is in, or "" if it is elsewhere.
func place(path string) string {
	rest, found := strings.CutPrefix(path, internal)
	if !found {
		return ""
	}
	top, _, _ := strings.Cut(rest, "/")
	return top
}

func isFoundation(path string) bool { return slices.Contains(foundation, place(path)) }

func isDomain(path string) bool {
	return place(path) != "" && !isFoundation(path) && !slices.Contains(others, place(path))
}

// goPackage is a package as `go list -json` describes it.
type goPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

const internal = "plinth/internal/"

// TestImports enforces the import rules of CONTRIBUTING.md.
func TestImports(t *testing.T) {
	t.Parallel()
	list := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", "plinth/...")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, fault := range importFaults(p) {
			t.Error(fault)
		}
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, fault := range fileFaults(p.ImportPath, name, file) {
				t.Error(fault)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d packages were looked at", seen)
	}
}

// importFaults returns the import rules that a package as a whole breaks.
func importFaults(p goPackage) (faults []string) {
	fault := func(imported, why string) { faults = append(faults, p.ImportPath+" imports "+imported+": "+why) }
	from := strings.TrimPrefix(p.ImportPath, internal)
	for _, path := range p.Imports {
		if !strings.HasPrefix(path, "plinth/") {
			continue
		}
		to := strings.TrimPrefix(path, internal)
		switch {
		case path == "plinth/internal/app" && !strings.HasPrefix(p.ImportPath, "plinth/cmd/"):
			fault(path, "only cmd does")
		case to == "e2e":
			fault(path, "it has tests alone")
		case to == "dev" && p.ImportPath != "plinth/cmd/dev" && !isTestSupport(p.ImportPath):
			fault(path, "only cmd/dev does")
		case isTestSupport(path) && !isTestSupport(p.ImportPath):
			fault(path, "it is for tests")
		case strings.HasPrefix(to, "broker/") && !isTestSupport(path) && from != "app" && !strings.HasPrefix(from, "plinth/bench/"):
			fault(path, "only app chooses a broker")
		case isDomain(p.ImportPath) && !domainMayImport(place(p.ImportPath), path):
			fault(path, "a domain may not")
		case isFoundation(p.ImportPath) && place(path) != "" && !isFoundation(path) && !isTestSupport(p.ImportPath):
			fault(path, "the foundation stands without domains")
		case from == "sample" && !isDomain(path) && !isFoundation(path):
			fault(path, "handlers work on domains")
		case from == "auth" && to != "errs":
			fault(path, "everything stands on it, so it stands on errs alone")
		case strings.HasPrefix(p.ImportPath, "plinth/cmd/") && to != "app" && (to != "dev" || p.ImportPath != "plinth/cmd/dev"):
			fault(path, "a main chooses, nothing more")
		}
	}
	if from == "auth" || from == "pg" {
		for _, path := range p.Deps {
			if strings.Contains(path, "redis") || strings.Contains(path, "jwt") || strings.Contains(path, "jwk") {
				fault(path, "it stands without Redis and JWTs")
			}
		}
	}
	if p.ImportPath == "plinth/cmd/server" || p.ImportPath == "plinth/cmd/worker" {
		for _, path := range p.Deps {
			if path == "plinth/internal/dev" || strings.HasPrefix(path, internal) && isTestSupport(path) || path == "testing" {
				fault(path, "it must not ship")
			}
		}
	}
	return faults
}

// domainMayImport reports whether a domain may import a package of this module. Of the foundation it may import packages
// such as broker or auth, but none in their folders: an implementation of a broker, or JWTs.
func domainMayImport(domain, path string) bool {
	if place(path) == "" || place(path) == domain {
		return true
	}
	return slices.Contains(foundation, strings.TrimPrefix(path, internal)) ||
		path == internal+"tenant" || isDomain(path) && slices.Contains(edges[domain], strings.TrimPrefix(path, internal))
}

func isTestSupport(path string) bool {
	return strings.HasPrefix(path, internal) && strings.HasSuffix(path, "test")
}

var (
	sql         = regexp.MustCompile(`\b(SELECT\s|INSERT INTO\s|UPDATE\s+\w+\s+SET\s|DELETE FROM\s)`)
	environment = []string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}
)

// fileFaults returns the import rules that a file breaks.
func fileFaults(pkg, name string, file *ast.File) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s/%s: ", pkg, name)+fmt.Sprintf(format, args...))
	}
	speaksRPC := slices.Contains([]string{"rpc", "app", "e2e"}, strings.TrimPrefix(pkg, internal)) ||
		isDomain(pkg) && (name == "rpc.go" || strings.HasSuffix(name, "_rpc.go") || name == "http.go" || strings.HasSuffix(name, "_http.go"))
	for _, spec := range file.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		ofRPC := path == "plinth/internal/rpc" || strings.HasPrefix(path, "plinth/api/") || strings.HasPrefix(path, "connectrpc.com/")
		if ofRPC && strings.HasPrefix(pkg, internal) && !speaksRPC {
			fault("imports %s: only rpc.go, *_rpc.go, http.go and *_http.go files of domains, rpc, app and e2e do", path)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if isDomain(pkg) && !strings.HasSuffix(name, "store.go") && n.Kind == token.STRING && sql.MatchString(n.Value) {
				fault("holds SQL: only store.go and *_store.go files do")
			}
		case *ast.SelectorExpr:
			if of, ok := n.X.(*ast.Ident); ok && of.Name == "os" && slices.Contains(environment, n.Sel.Name) &&
				strings.HasPrefix(pkg, internal) && !isTestSupport(pkg) && pkg+"/"+name != "plinth/internal/app/config.go" {
				fault("reads the environment: only app/config.go does")
			}
		}
		return true
	})
	return faults
}

// CONTRIBUTING.md states the same lists as this file.
func TestContributingStatesTheRules(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	quoted := func(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }
	from := slices.Sorted(maps.Keys(edges))
	for _, name := range from {
		if !slices.Equal(edges[name], []string{"message"}) {
			t.Errorf("%s may use %v, and CONTRIBUTING.md is not asked", name, edges[name])
		}
	}
	last := len(from) - 1
	for _, want := range []string{
		"(" + quoted(foundation) + ")", quoted(from[:last]) + " and `" + from[last] + "` may import `message`. There is no other edge",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("CONTRIBUTING.md does not say %s", want)
		}
	}
}

// TestImportRulesBite breaks each rule once.
func TestImportRulesBite(t *testing.T) {
	t.Parallel()
	for _, p := range []goPackage{
		{ImportPath: "plinth/internal/rpc", Imports: []string{"plinth/internal/app"}},
		{ImportPath: "plinth/internal/app", Imports: []string{"plinth/internal/dev"}},
		{ImportPath: "plinth/internal/app", Imports: []string{"plinth/internal/e2e"}},
		{ImportPath: "plinth/internal/app", Imports: []string{"plinth/internal/pg/pgtest"}},
		{ImportPath: "plinth/internal/message", Imports: []string{"plinth/internal/broker/amqp"}},
		{ImportPath: "plinth/internal/message", Imports: []string{"plinth/internal/schedule"}},
		{ImportPath: "plinth/internal/rpc", Imports: []string{"plinth/internal/message"}},
		{ImportPath: "plinth/internal/broker/amqp", Imports: []string{"plinth/internal/message"}},
		{ImportPath: "plinth/internal/auth/oidc", Imports: []string{"plinth/internal/tenant"}},
		{ImportPath: "plinth/internal/message", Imports: []string{"plinth/internal/auth/oidc"}},
		{ImportPath: "plinth/internal/auth", Imports: []string{"plinth/internal/ratelimit"}},
		{ImportPath: "plinth/internal/errs", Imports: []string{"plinth/internal/sample"}},
		{ImportPath: "plinth/internal/sample", Imports: []string{"plinth/internal/e2e"}},
		// Packages that are not listed are domains, and so are the folders in them.
		{ImportPath: "plinth/internal/unheard", Imports: []string{"plinth/internal/message"}},
		{ImportPath: "plinth/internal/unheard", Imports: []string{"plinth/internal/broker/postgres"}},
		{ImportPath: "plinth/internal/unheard", Imports: []string{"plinth/internal/sample"}},
		{ImportPath: "plinth/internal/unheard/inner", Imports: []string{"plinth/internal/message"}},
		{ImportPath: "plinth/internal/message", Imports: []string{"plinth/internal/unheard"}},
		{ImportPath: "plinth/internal/pg", Imports: []string{"plinth/internal/unheard"}},
		{ImportPath: "plinth/internal/saga", Imports: []string{"plinth/internal/schedule"}},
		{ImportPath: "plinth/internal/tenant", Imports: []string{"plinth/internal/message"}},
		{ImportPath: "plinth/internal/pg", Deps: []string{"github.com/redis/go-redis/v9"}},
		{ImportPath: "plinth/cmd/server", Imports: []string{"plinth/internal/message"}},
		{ImportPath: "plinth/cmd/server", Imports: []string{"plinth/internal/app"}, Deps: []string{"plinth/internal/dev"}},
	} {
		if len(importFaults(p)) == 0 {
			t.Errorf("%s may import %v %v", p.ImportPath, p.Imports, p.Deps)
		}
	}
	for _, p := range []goPackage{
		{ImportPath: "plinth/internal/schedule", Imports: []string{"plinth/internal/message", "plinth/internal/tenant", "plinth/internal/pg"}},
		{ImportPath: "plinth/internal/unheard", Imports: []string{"plinth/internal/tenant", "plinth/internal/broker", "plinth/internal/unheard/inner"}},
		{ImportPath: "plinth/internal/sample", Imports: []string{"plinth/internal/message", "plinth/internal/pg"}},
		{ImportPath: "plinth/cmd/dev", Imports: []string{"plinth/internal/app", "plinth/internal/dev"}},
		{ImportPath: "plinth/internal/app", Imports: []string{"plinth/internal/broker/amqp", "plinth/internal/message"}},
	} {
		if faults := importFaults(p); len(faults) != 0 {
			t.Errorf("%v", faults)
		}
	}
	for _, sinner := range []struct{ pkg, name, source string }{
		{"plinth/internal/message", "service.go", `import _ "connectrpc.com/connect"`},
		{"plinth/internal/message", "service.go", `import _ "plinth/api/plinth/message/v1"`},
		{"plinth/internal/message", "service.go", `import _ "plinth/internal/rpc"`},
		{"plinth/internal/message", "notrpc.go", `import _ "plinth/internal/rpc"`},
		{"plinth/internal/sample", "http.go", `import _ "plinth/internal/rpc"`},
		{"plinth/internal/unheard", "service.go", `import _ "plinth/internal/rpc"`},
		{"plinth/internal/unheard", "service.go", "const q = `SELECT 1`"},
		{"plinth/internal/pg", "db.go", `import _ "connectrpc.com/connect"`},
		{"plinth/internal/message", "service.go", "const q = `SELECT 1`"},
		{"plinth/internal/message", "worker.go", `const q = "DELETE FROM queues"`},
		{"plinth/internal/pg", "db.go", `import "os"; var v = os.Getenv("X")`},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), sinner.name, "package x; "+sinner.source, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(fileFaults(sinner.pkg, sinner.name, file)) == 0 {
			t.Errorf("%s/%s may say %s", sinner.pkg, sinner.name, sinner.source)
		}
	}
	for _, name := range []string{"rpc.go", "queue_rpc.go", "http.go", "tus_http.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, `package x; import _ "plinth/internal/rpc"; import _ "connectrpc.com/connect"`, 0)
		if err != nil {
			t.Fatal(err)
		}
		if faults := fileFaults("plinth/internal/message", name, file); len(faults) != 0 {
			t.Errorf("%v", faults)
		}
	}
}
