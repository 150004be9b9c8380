package schedule_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// No fire time, due time or lease depends on a worker's clock: time.Now is called by a few functions alone, which take the difference of
// two of its times, or name things by it.
func TestWorkersReadNoClock(t *testing.T) {
	t.Parallel()
	allowed := []string{"start", "renew", "finish", "runOwnJob", "writeOwn"}
	names, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range names {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), entry.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declared := range file.Decls {
			function, is := declared.(*ast.FuncDecl)
			if !is {
				continue
			}
			ast.Inspect(function, func(n ast.Node) bool {
				if s, is := n.(*ast.SelectorExpr); is && slices.Contains([]string{"Now", "Since", "Until"}, s.Sel.Name) {
					if of, is := s.X.(*ast.Ident); is && of.Name == "time" {
						if found = append(found, function.Name.Name); !slices.Contains(allowed, function.Name.Name) {
							t.Errorf("%s: %s reads the clock", entry.Name(), function.Name.Name)
						}
					}
				}
				return true
			})
		}
	}
	if len(found) < 3 {
		t.Errorf("only %v read it", found)
	}
}
