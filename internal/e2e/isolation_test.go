package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	tenantv1 "plinth/api/plinth/tenant/v1"
)

// key returns an option that sends an API key with every call of a client, in any protocol.
func key(key string) connect.ClientOption { return connect.WithInterceptors(keySender(key)) }

type keySender string

func (k keySender) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		k.put(req.Header())
		return next(ctx, req)
	}
}

func (k keySender) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		k.put(conn.RequestHeader())
		return conn
	}
}

func (keySender) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (k keySender) put(h http.Header) { h.Set("Authorization", "Bearer "+string(k)) }

// tenantClient returns the administrator's client for tenants and keys.
func tenantClient(t testing.TB, url string) tenantv1.TenantServiceClient {
	return tenantv1.NewTenantServiceClient(http2(t), url, connect.WithGRPC())
}

// newTenant creates a tenant, and a key that may do everything that a tenant may.
func newTenant(t testing.TB, url, name string) (apiKey string) {
	t.Helper()
	if _, err := tenantClient(t, url).CreateTenant(t.Context(), &tenantv1.CreateTenantRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	return newKey(t, url, name, "*")
}

func newKey(t testing.TB, url, tenant string, scopes ...string) (apiKey string) {
	t.Helper()
	res, err := tenantClient(t, url).CreateApiKey(t.Context(), &tenantv1.CreateApiKeyRequest{Tenant: tenant, Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetKey()
}

// hidden is what the tenant acme has of a service, and hides from the tenant other.
type hidden struct {
	// tries has a function for each RPC, by its name, which tries to see or change what acme has, and fails the test if it
	// can.
	tries map[protoreflect.Name]func(t *testing.T, other party)
	// state returns everything that acme can see of its own.
	state func(t *testing.T) []proto.Message
}

// party is a tenant that calls.
type party struct {
	http    connect.HTTPClient
	url     string
	options []connect.ClientOption
	streams bool // in both directions, which need HTTP/2 and have no route
}

// hiding returns a function for each service, by its name, which creates what acme has to hide. There both tenants call over
// gRPC.
func hiding() map[protoreflect.FullName]func(t *testing.T, acme, other party) hidden {
	return map[protoreflect.FullName]func(t *testing.T, acme, other party) hidden{
		"plinth.cache.v1.CacheService":       hiddenCache,
		"plinth.channel.v1.ChannelService":   hiddenChannels,
		"plinth.lock.v1.LockService":         hiddenLocks,
		"plinth.message.v1.MessageService":   hiddenMessages,
		"plinth.tenant.v1.TenantService":     hiddenTenants,
		"plinth.file.v1.FileService":         hiddenFiles,
		"plinth.schedule.v1.ScheduleService": hiddenSchedules,
	}
}

// isolated tests that a tenant neither sees nor changes anything of another's, with every RPC, protocol and route.
func isolated(t *testing.T, sys *system) {
	acmeKey, otherKey := newTenant(t, sys.url, "acme"), newTenant(t, sys.url, "other")
	grpc := func(apiKey string) party {
		return party{http2(t), sys.url, []connect.ClientOption{connect.WithGRPC(), key(apiKey)}, true}
	}
	hiding, all := hiding(), map[protoreflect.FullName]hidden{}
	for _, service := range ourServices(t) {
		hide := hiding[service.FullName()]
		if hide == nil {
			t.Fatalf("%s has no row in hiding: what may another tenant try with it?", service.FullName())
		}
		h := hide(t, grpc(acmeKey), grpc(otherKey))
		for i := range service.Methods().Len() {
			if m := service.Methods().Get(i); h.tries[m.Name()] == nil {
				t.Errorf("%s has no case: what may another tenant try with it?", m.FullName())
			}
		}
		all[service.FullName()] = h
	}
	before := map[protoreflect.FullName][]proto.Message{}
	for name, h := range all {
		before[name] = h.state(t)
	}
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			other := party{v.http(t), sys.url, append(v.options, key(otherKey)), v.streams}
			for _, h := range all {
				for name, try := range h.tries {
					t.Run(string(name), func(t *testing.T) { try(t, other) })
				}
			}
		})
	}
	for name, h := range all {
		for i, after := range h.state(t) {
			same(t, "acme's own", after, before[name][i])
		}
	}
}

// ourServices returns the services of all our protos.
func ourServices(t *testing.T) (all []protoreflect.ServiceDescriptor) {
	t.Helper()
	paths, err := filepath.Glob("../../api/plinth/*/v*/*.proto")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no protos: %v", err)
	}
	for _, path := range paths {
		file, err := protoregistry.GlobalFiles.FindFileByPath(strings.TrimPrefix(filepath.ToSlash(path), "../../api/"))
		if err != nil {
			t.Fatalf("%s: %v; nothing here calls its services: say in hiding what another tenant may try with them", path, err)
		}
		for i := range file.Services().Len() {
			all = append(all, file.Services().Get(i))
		}
	}
	return all
}

// ourMethods returns the RPCs of all those services.
func ourMethods() (all []protoreflect.MethodDescriptor) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "plinth.") {
			return true
		}
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				all = append(all, methods.Get(j))
			}
		}
		return true
	})
	return all
}
