package app

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// The Service of a domain has a method with the name of each of its RPCs, so that a reader who comes from the proto finds
// the rule behind it.
func TestProceduresHaveMethods(t *testing.T) {
	t.Parallel()
	seen := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		names := strings.Split(string(file.Package()), ".") // Such as plinth.message.v1.
		if names[0] != "plinth" || file.Services().Len() == 0 {
			return true
		}
		methods := methodsOfService(t, filepath.Join("..", names[1]))
		for i := range file.Services().Len() {
			procedures := file.Services().Get(i).Methods()
			for j := range procedures.Len() {
				seen++
				if name := string(procedures.Get(j).Name()); !methods[name] {
					t.Errorf("internal/%s: the Service has no method %s, as the RPC is called", names[1], name)
				}
			}
		}
		return true
	})
	if seen < 20 {
		t.Errorf("only %d RPCs were looked at", seen)
	}
}

// methodsOfService returns the names of the methods of the type Service in a folder.
func methodsOfService(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	methods := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				continue
			}
			if star, ok := fn.Recv.List[0].Type.(*ast.StarExpr); ok {
				if of, ok := star.X.(*ast.Ident); ok && of.Name == "Service" {
					methods[fn.Name.Name] = true
				}
			}
		}
	}
	return methods
}
