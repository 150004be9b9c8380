package tenant

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	tenantv1 "plinth/api/plinth/tenant/v1"
	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/resource"
	"plinth/internal/rpc"
)

// RPC implements TenantService. If a method returns an error, Connect ignores its reply.
type RPC struct{ service *Service }

var _ tenantv1.TenantServiceHandler = (*RPC)(nil)

// NewRPC returns an RPC.
func NewRPC(service *Service) *RPC { return &RPC{service} }

func (r *RPC) CreateTenant(ctx context.Context, req *tenantv1.CreateTenantRequest) (*tenantv1.Tenant, error) {
	rate, err := rateFromProto(req.GetRateLimit())
	if err != nil {
		return nil, err
	}
	t, err := r.service.CreateTenant(ctx, Tenant{
		Name: req.GetName(), DisplayName: req.GetDisplayName(), Rate: rate, Quotas: req.GetQuotas(),
	})
	return tenantToProto(t), err
}

func (r *RPC) GetTenant(ctx context.Context, req *tenantv1.GetTenantRequest) (*tenantv1.Tenant, error) {
	t, err := r.service.GetTenant(ctx, req.GetName())
	return tenantToProto(t), err
}

func (r *RPC) ListTenants(ctx context.Context, req *tenantv1.ListTenantsRequest) (*tenantv1.ListTenantsResponse, error) {
	tenants, next, err := r.service.ListTenants(ctx, int(req.GetPageSize()), req.GetPageToken())
	return &tenantv1.ListTenantsResponse{Tenants: rpc.SliceToProto(tenants, tenantToProto), NextPageToken: next}, err
}

func (r *RPC) UpdateTenant(ctx context.Context, req *tenantv1.UpdateTenantRequest) (*tenantv1.Tenant, error) {
	change, err := changeFromProto(req)
	if err != nil {
		return nil, err
	}
	t, err := r.service.UpdateTenant(ctx, req.GetName(), change)
	return tenantToProto(t), err
}

func (r *RPC) DeleteTenant(ctx context.Context, req *tenantv1.DeleteTenantRequest) (*tenantv1.DeleteTenantResponse, error) {
	return &tenantv1.DeleteTenantResponse{}, r.service.DeleteTenant(ctx, req.GetName())
}

func changeFromProto(req *tenantv1.UpdateTenantRequest) (func(*Tenant), error) {
	rate, err := rateFromProto(req.GetRateLimit())
	if err != nil {
		return nil, err
	}
	return resource.Change("tenant", req.GetUpdateMask().GetPaths(), map[string]resource.Field[Tenant]{
		"display_name": {Set: req.GetDisplayName() != "", Copy: func(t *Tenant) { t.DisplayName = req.GetDisplayName() }},
		"disabled":     {Set: req.GetDisabled(), Copy: func(t *Tenant) { t.Disabled = req.GetDisabled() }},
		"rate_limit":   {Set: rate.IsLimit(), Copy: func(t *Tenant) { t.Rate = rate }},
		"quotas":       {Set: len(req.GetQuotas()) > 0, Copy: func(t *Tenant) { t.Quotas = req.GetQuotas() }},
	})
}

func rateFromProto(text string) (auth.Rate, error) {
	rate, err := auth.ParseRate(text)
	if err != nil {
		return auth.Rate{}, errs.New(errs.InvalidArgument, "rate_limit: %v", err)
	}
	return rate, nil
}

func tenantToProto(t Tenant) *tenantv1.Tenant {
	return &tenantv1.Tenant{
		Name: t.Name, DisplayName: t.DisplayName, CreateTime: timestamppb.New(t.CreatedAt), Disabled: t.Disabled,
		RateLimit: t.Rate.String(), Quotas: t.Quotas, Usage: t.Usage,
		DeleteTime: rpc.TimeToProto(t.DeletedAt), RemainingRows: t.Remaining,
	}
}
