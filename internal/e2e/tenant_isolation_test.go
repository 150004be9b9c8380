package e2e

import (
	"context"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	tenantv1 "plinth/api/plinth/tenant/v1"
)

// administration has a call for each RPC that no tenant's key may make, whatever its scopes.
var administration = map[protoreflect.Name]func(context.Context, tenantv1.TenantServiceClient) error{
	"CreateTenant": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.CreateTenant(ctx, &tenantv1.CreateTenantRequest{Name: "mine"})
		return err
	},
	"GetTenant": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.GetTenant(ctx, &tenantv1.GetTenantRequest{Name: "acme"})
		return err
	},
	"ListTenants": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.ListTenants(ctx, &tenantv1.ListTenantsRequest{})
		return err
	},
	"UpdateTenant": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: "acme", Disabled: true})
		return err
	},
	"DeleteTenant": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.DeleteTenant(ctx, &tenantv1.DeleteTenantRequest{Name: "acme"})
		return err
	},
	"CreateApiKey": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.CreateApiKey(ctx, &tenantv1.CreateApiKeyRequest{Tenant: "acme", Scopes: []string{"*"}})
		return err
	},
	"GetApiKey": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.GetApiKey(ctx, &tenantv1.GetApiKeyRequest{Id: noID})
		return err
	},
	"ListApiKeys": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.ListApiKeys(ctx, &tenantv1.ListApiKeysRequest{Tenant: "acme"})
		return err
	},
	"RevokeApiKey": func(ctx context.Context, c tenantv1.TenantServiceClient) error {
		_, err := c.RevokeApiKey(ctx, &tenantv1.RevokeApiKeyRequest{Id: noID})
		return err
	},
}

const noID = "01a207b7-cfee-74eb-a938-89f827930982"

func hiddenTenants(_ *testing.T, _, _ party) hidden {
	h := hidden{tries: map[protoreflect.Name]func(*testing.T, party){}, state: func(*testing.T) []proto.Message { return nil }}
	for name, try := range administration {
		h.tries[name] = func(t *testing.T, other party) {
			wantCode(t, try(t.Context(), tenantv1.NewTenantServiceClient(other.http, other.url, other.options...)), connect.CodePermissionDenied)
		}
	}
	return h
}
