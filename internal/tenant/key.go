package tenant

import (
	"context"
	"time"

	"github.com/google/uuid"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
	"plinth/internal/resource"
)

const maxKeyLife = 10 * 365 * 24 * time.Hour

var errExpireTime = errs.New(errs.InvalidArgument, "expire_time: a moment in the future is allowed, up to ten years ahead")

// CreateApiKey creates an API key for k.Tenant, or for the default tenant if that is empty, and returns the secret, which
// is not stored. Errors: NotFound for an unknown tenant; InvalidArgument for an unknown scope, for no scope at all, and
// for an expiry that is past or more than ten years ahead.
func (s *Service) CreateApiKey(ctx context.Context, k Key) (secret string, _ Key, err error) {
	if k.Tenant == "" {
		k.Tenant = auth.DefaultTenant
	}
	if len(k.Scopes) == 0 {
		return "", Key{}, errs.New(errs.InvalidArgument, "scopes: a key has at least one")
	}
	if err := s.checkScopes(k); err != nil {
		return "", Key{}, err
	}
	if err := checkDisplayName(k.DisplayName); err != nil {
		return "", Key{}, err
	}
	if checkName(k.Tenant) != nil {
		return "", Key{}, errNoTenant(k.Tenant)
	}
	if life := k.ExpiresAt.Sub(s.now()); !k.ExpiresAt.IsZero() && (life <= 0 || life > maxKeyLife) {
		return "", Key{}, errExpireTime
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", Key{}, err
	}
	secret = auth.NewKey()
	k.ID, k.Prefix = id.String(), auth.ShownKey(secret)
	err = s.system.InTx(ctx, func(tx *pg.Tx) error {
		if err := keepTenant(ctx, tx, k.Tenant); err != nil {
			return err
		}
		k, err = insertKey(ctx, tx, k, auth.HashKey(secret))
		return err
	})
	if err != nil {
		return "", Key{}, err
	}
	return secret, k, nil
}

// GetApiKey returns a key. Errors: NotFound, also for an id that is not a UUID.
func (s *Service) GetApiKey(ctx context.Context, id string) (Key, error) {
	if uuid.Validate(id) != nil {
		return Key{}, errNoKey(id)
	}
	return selectKey(ctx, s.system, id)
}

// ListApiKeys lists the keys of a tenant, or of all tenants if tenant is empty, the latest first, in pages as
// resource.List describes them. Errors: InvalidArgument for a token that is not of this list.
func (s *Service) ListApiKeys(ctx context.Context, tenant string, size int, token string) (keys []Key, next string, err error) {
	list := resource.List[Key, uuid.UUID]{
		Of:       []any{"keys", tenant},
		Start:    uuid.Max,
		Position: func(k Key) string { return k.ID },
		Parse:    uuid.Parse,
		Select: resource.OneMore(func(before uuid.UUID, limit int) ([]Key, error) {
			if tenant != "" && checkName(tenant) != nil { // No tenant has that name, so there are no keys.
				return nil, nil
			}
			return selectKeys(ctx, s.system, tenant, before.String(), limit)
		}),
	}
	return list.Page(size, token)
}

// RevokeApiKey revokes a key for good; a revoked key stays as it is. Errors: NotFound.
func (s *Service) RevokeApiKey(ctx context.Context, id string) (k Key, err error) {
	if uuid.Validate(id) != nil {
		return Key{}, errNoKey(id)
	}
	err = s.change(ctx, func(tx *pg.Tx) error {
		k, err = revokeKey(ctx, tx, id)
		return err
	})
	return k, err
}
