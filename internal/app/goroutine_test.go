package app

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unlogged are the functions that start goroutines without it: most wait, or hand over the outcome of one call to a backend, and those of the
// cache have no log.
var unlogged = []string{
	"app.wait", "broker/amqp.Write", "broker/amqp.leave", "broker/amqp.newSession", "broker/amqp.onConnection", "broker/amqp.renew",
	"broker/amqp.write", "broker/amqp.writeItem", "cache.await", "cache.join", "cache.poll", "cache.renew", "file.renewing",
	"kv.probeOnce", "message.settled", "observe.Flush", "observe.FlushBeforeSignals", "schedule.keep", "schedule.runOwnJob",
	"tenant.join",
}

// TestGoroutines enforces that goroutines log a panic before it ends the process: what the log has buffered is lost otherwise.
func TestGoroutines(t *testing.T) {
	t.Parallel()
	packages := map[string][]*ast.File{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		folder := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
			strings.Contains(folder, "test") || strings.HasPrefix(folder, "dev") || strings.HasPrefix(folder, "e2e") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		packages[folder] = append(packages[folder], file)
		return err
	})
	if err != nil || len(packages) < 20 {
		t.Fatal(len(packages), err)
	}
	found := map[string]bool{}
	for name, files := range packages {
		logs := map[string]bool{} // functions that begin with LogPanic
		for _, file := range files {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && logsPanic(f.Body) {
					logs[f.Name.Name] = true
				}
			}
		}
		for _, file := range files {
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Body == nil {
					continue
				}
				for _, started := range goroutines(f.Body) {
					if startsLogged(started, logs) {
						continue
					}
					found[name+"."+f.Name.Name] = true
				}
			}
		}
	}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, unlogged) {
		t.Errorf("goroutines without observe.LogPanic are started by\n%q, want\n%q", got, unlogged)
	}
}

// goroutines returns what runs in goroutines that a function starts: by go, or by the Go of a group.
func goroutines(body ast.Node) (started []ast.Expr) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			started = append(started, n.Call.Fun)
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Go" {
				started = append(started, n.Args[0])
			}
		}
		return true
	})
	return started
}

// startsLogged reports whether a goroutine begins with LogPanic, or calls nothing but a function that does.
func startsLogged(started ast.Expr, logs map[string]bool) bool {
	switch f := started.(type) {
	case *ast.FuncLit:
		if logsPanic(f.Body) {
			return true
		}
		if len(f.Body.List) == 1 {
			if call, ok := f.Body.List[0].(*ast.ExprStmt); ok {
				return startsLogged(call.X.(*ast.CallExpr).Fun, logs)
			}
		}
	case *ast.SelectorExpr:
		return logs[f.Sel.Name]
	}
	return false
}

// logsPanic reports whether LogPanic is among the deferred calls that a function begins with.
func logsPanic(body *ast.BlockStmt) bool {
	if body == nil {
		return false
	}
	for _, s := range body.List {
		d, ok := s.(*ast.DeferStmt)
		if !ok {
			return false
		}
		if f, ok := d.Call.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "LogPanic" {
			return true
		}
	}
	return false
}
