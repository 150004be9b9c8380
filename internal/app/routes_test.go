package app

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	authv1 "plinth/api/plinth/auth/v1"
)

// The RPCs that everybody may call are these and no others.
func TestPublicMethods(t *testing.T) {
	t.Parallel()
	want := []string{
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	}
	if got := public(); !slices.Equal(got, want) {
		t.Errorf("public are %v", got)
	}
}

var scopePattern = regexp.MustCompile(`^(admin|[a-z_]+\.[a-z]+)$`)

// Every method is public, or states the scope that it needs; none is both.
func TestEveryMethodStatesItsScope(t *testing.T) {
	t.Parallel()
	ours := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				path := "/" + strings.TrimPrefix(string(service.FullName()), "connectext.") + "/" + string(m.Name())
				scope, _ := proto.GetExtension(m.Options(), authv1.E_Scope).(string)
				if strings.HasPrefix(string(file.Package()), "plinth.") {
					ours++
				} else if scope == "" {
					continue // A service of a library. It is public, or denied to everybody.
				}
				if open := slices.Contains(public(), path); open == (scope != "") || scope != "" && !scopePattern.MatchString(scope) {
					t.Errorf("%s: public %v, scope %q; it needs one of the two", path, open, scope)
				}
			}
		}
		return true
	})
	if ours < 28 {
		t.Errorf("only %d methods were looked at", ours)
	}
}
