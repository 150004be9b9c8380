package tenant

import (
	"context"

	tenantv1 "plinth/api/plinth/tenant/v1"
	"plinth/internal/errs"
	"plinth/internal/rpc"
)

func (r *RPC) CreateApiKey(ctx context.Context, req *tenantv1.CreateApiKeyRequest) (*tenantv1.CreateApiKeyResponse, error) {
	rate, err := rateFromProto(req.GetRateLimit())
	if err != nil {
		return nil, err
	}
	k := Key{Tenant: req.GetTenant(), DisplayName: req.GetDisplayName(), Scopes: req.GetScopes(), Rate: rate}
	switch expiry := req.GetExpiry().(type) {
	case *tenantv1.CreateApiKeyRequest_ExpireTime:
		k.ExpiresAt = expiry.ExpireTime.AsTime()
		if expiry.ExpireTime.CheckValid() != nil || k.ExpiresAt.IsZero() { // The zero time would mean never.
			return nil, errExpireTime
		}
	case *tenantv1.CreateApiKeyRequest_ExpiresIn:
		life := expiry.ExpiresIn.AsDuration()
		if life <= 0 || life > maxKeyLife {
			return nil, errs.New(errs.InvalidArgument, "expires_in: more than 0 and up to ten years are allowed")
		}
		k.ExpiresAt = r.service.now().Add(life)
	}
	secret, k, err := r.service.CreateApiKey(ctx, k)
	return &tenantv1.CreateApiKeyResponse{Key: secret, ApiKey: keyToProto(k)}, err
}

func (r *RPC) GetApiKey(ctx context.Context, req *tenantv1.GetApiKeyRequest) (*tenantv1.ApiKey, error) {
	k, err := r.service.GetApiKey(ctx, req.GetId())
	return keyToProto(k), err
}

func (r *RPC) ListApiKeys(ctx context.Context, req *tenantv1.ListApiKeysRequest) (*tenantv1.ListApiKeysResponse, error) {
	keys, next, err := r.service.ListApiKeys(ctx, req.GetTenant(), int(req.GetPageSize()), req.GetPageToken())
	return &tenantv1.ListApiKeysResponse{ApiKeys: rpc.SliceToProto(keys, keyToProto), NextPageToken: next}, err
}

func (r *RPC) RevokeApiKey(ctx context.Context, req *tenantv1.RevokeApiKeyRequest) (*tenantv1.ApiKey, error) {
	k, err := r.service.RevokeApiKey(ctx, req.GetId())
	return keyToProto(k), err
}

func keyToProto(k Key) *tenantv1.ApiKey {
	return &tenantv1.ApiKey{
		Id: k.ID, Tenant: k.Tenant, DisplayName: k.DisplayName, Prefix: k.Prefix, Scopes: k.Scopes, RateLimit: k.Rate.String(),
		CreateTime: rpc.TimeToProto(k.CreatedAt), ExpireTime: rpc.TimeToProto(k.ExpiresAt), RevokeTime: rpc.TimeToProto(k.RevokedAt),
		LastUsedTime: rpc.TimeToProto(k.LastUsedAt),
	}
}
