package rpc

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"plinth/internal/errs"
)

// Every kind of error has a code, a rule in errs.Retryable and a line in docs/errors.md. The kinds are read from the source
// of errs, so that a new one cannot be forgotten here.
func TestKindsAreComplete(t *testing.T) {
	t.Parallel()
	kinds, withRule := kindsOf(t, filepath.Join("..", "errs"))
	docs, err := os.ReadFile(filepath.Join("..", "..", "docs", "errors.md"))
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(docs), "\n\n| HTTP |")
	taken := map[connect.Code]string{}
	for name, kind := range kinds {
		code, ok := codes[kind]
		if !ok {
			t.Errorf("%s has no code", name)
			continue
		}
		if other, ok := taken[code]; ok {
			t.Errorf("%s and %s have the code %s", name, other, code)
		}
		taken[code] = name
		if !withRule[name] {
			t.Errorf("%s is in no case of errs.Retryable", name)
		}
		if !strings.Contains(table, "\n| `"+code.String()+"` | ") {
			t.Errorf("%s: the table of docs/errors.md has no line for %s", name, code)
		}
	}
	if len(kinds) == 0 || len(codes) != len(kinds) {
		t.Errorf("%d kinds and %d codes", len(kinds), len(codes))
	}
}

// kindsOf returns the constants of type Kind in the source of package errs, and which of them Retryable names.
func kindsOf(t *testing.T, folder string) (kinds map[string]errs.Kind, withRule map[string]bool) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	var retryable *ast.FuncDecl
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "Retryable" {
				retryable = fn
			}
		}
	}
	if retryable == nil {
		t.Fatal("there is no errs.Retryable")
	}
	// The imports of the package do not matter here, and are not resolved.
	check := types.Config{Error: func(error) {}}
	info := &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	_, _ = check.Check("errs", fset, files, info)
	isKind := func(object types.Object) bool {
		_, isConst := object.(*types.Const)
		return isConst && object.Type().String() == "errs.Kind"
	}
	kinds, withRule = map[string]errs.Kind{}, map[string]bool{}
	for _, object := range info.Defs {
		if isKind(object) {
			value, _ := constant.Uint64Val(object.(*types.Const).Val())
			kinds[object.Name()] = errs.Kind(value)
		}
	}
	ast.Inspect(retryable, func(n ast.Node) bool {
		clause, ok := n.(*ast.CaseClause)
		if !ok {
			return true
		}
		for _, expr := range clause.List {
			if id, ok := expr.(*ast.Ident); ok && isKind(info.Uses[id]) {
				withRule[id.Name] = true
			}
		}
		return true
	})
	return kinds, withRule
}
