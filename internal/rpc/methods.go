package rpc

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	authv1 "plinth/api/plinth/auth/v1"
)

// method is what may be called: an RPC, as its proto declares it, or a plain route.
type method struct {
	name    string // of an RPC, its path; of a plain route, its pattern
	scope   string // the scope that a caller needs; no caller has the empty scope
	public  bool   // everybody may call it
	streams bool
	maxWait time.Duration // how much longer than others a unary call may take, because it waits
	stall   time.Duration // of a plain route that streams: the longest time without a byte
}

// methodsOf returns all methods of linked protos by their paths, and marks the public ones.
func methodsOf(public []string) map[string]*method {
	methods := map[string]*method{}
	eachMethod(func(path string, m protoreflect.MethodDescriptor) {
		scope, _ := proto.GetExtension(m.Options(), authv1.E_Scope).(string)
		methods[path] = &method{
			name: path, scope: scope, public: slices.Contains(public, path), streams: m.IsStreamingClient() || m.IsStreamingServer(),
			maxWait: maxWaitOf(m),
		}
	})
	for _, path := range public {
		if _, linked := methods[path]; !linked { // The older version of reflection has no descriptor of its own.
			methods[path] = &method{name: path, public: true, streams: true}
		}
	}
	return methods
}

// Scopes returns all scopes that methods require, sorted.
func Scopes() (scopes []string) {
	eachMethod(func(_ string, m protoreflect.MethodDescriptor) {
		if scope, _ := proto.GetExtension(m.Options(), authv1.E_Scope).(string); scope != "" {
			scopes = append(scopes, scope)
		}
	})
	slices.Sort(scopes)
	return slices.Compact(scopes)
}

func eachMethod(visit func(path string, m protoreflect.MethodDescriptor)) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				// Connect's own packages register the services of gRPC under names that do not clash with grpc-go's.
				name := strings.TrimPrefix(string(service.FullName()), "connectext.")
				visit("/"+name+"/"+string(m.Name()), m)
			}
		}
		return true
	})
}

// IsMethod reports whether there is a method with this path.
func IsMethod(path string) (found bool) {
	eachMethod(func(p string, _ protoreflect.MethodDescriptor) { found = found || p == path })
	return found
}
