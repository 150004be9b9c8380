package tenant_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tenantv1 "plinth/api/plinth/tenant/v1"
	"plinth/internal/errs"
	"plinth/internal/tenant"
)

func TestTenantsOnTheWire(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := tenant.NewRPC(newFixture(t).Service)
	quotas := map[string]int64{"queues": 7, "messages_per_second": 0}
	made, err := r.CreateTenant(ctx, &tenantv1.CreateTenantRequest{Name: "acme", DisplayName: "Acme", RateLimit: "60/m", Quotas: quotas})
	if err != nil || made.GetName() != "acme" || made.GetDisplayName() != "Acme" || made.GetRateLimit() != "60/m" ||
		!maps.Equal(made.GetQuotas(), quotas) || made.GetCreateTime().AsTime().IsZero() || made.GetUsage() != nil || made.GetDisabled() {
		t.Fatalf("made %v, %v", made, err)
	}
	got, err := r.GetTenant(ctx, &tenantv1.GetTenantRequest{Name: "acme"})
	if err != nil || !maps.Equal(got.GetUsage(), map[string]int64{"queues": 0}) {
		t.Errorf("got %v, %v", got, err)
	}
	list, err := r.ListTenants(ctx, &tenantv1.ListTenantsRequest{PageSize: 1})
	if err != nil || len(list.GetTenants()) != 1 || list.GetTenants()[0].GetName() != "acme" || list.GetTenants()[0].GetUsage() != nil {
		t.Errorf("got %v, %v", list, err)
	}
	list, err = r.ListTenants(ctx, &tenantv1.ListTenantsRequest{PageToken: list.GetNextPageToken()})
	if err != nil || len(list.GetTenants()) != 1 || list.GetTenants()[0].GetName() != "default" || list.GetNextPageToken() != "" {
		t.Errorf("got %v, %v", list, err)
	}
	if _, err := r.DeleteTenant(ctx, &tenantv1.DeleteTenantRequest{Name: "acme"}); err != nil {
		t.Error(err)
	}
}

// An update changes the fields that its mask names; without a mask, those that have a value.
func TestUpdateTenantOnTheWire(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := tenant.NewRPC(newFixture(t).Service)
	if _, err := r.CreateTenant(ctx, &tenantv1.CreateTenantRequest{
		Name: "acme", DisplayName: "Acme", RateLimit: "60/m", Quotas: map[string]int64{"queues": 7},
	}); err != nil {
		t.Fatal(err)
	}
	mask := func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
	for _, step := range []struct {
		change *tenantv1.UpdateTenantRequest
		want   string
	}{
		{&tenantv1.UpdateTenantRequest{}, "Acme 60/m map[queues:7] false"},
		{&tenantv1.UpdateTenantRequest{DisplayName: "A"}, "A 60/m map[queues:7] false"},
		{&tenantv1.UpdateTenantRequest{Disabled: true}, "A 60/m map[queues:7] true"},
		{&tenantv1.UpdateTenantRequest{RateLimit: "5/s"}, "A 5/s map[queues:7] true"},
		{&tenantv1.UpdateTenantRequest{Quotas: map[string]int64{"messages_per_second": 3}}, "A 5/s map[messages_per_second:3] true"},
		{&tenantv1.UpdateTenantRequest{DisplayName: "B", RateLimit: "6/s", UpdateMask: mask("display_name")}, "B 5/s map[messages_per_second:3] true"},
		{&tenantv1.UpdateTenantRequest{UpdateMask: mask("disabled")}, "B 5/s map[messages_per_second:3] false"},
		{&tenantv1.UpdateTenantRequest{UpdateMask: mask("display_name", "rate_limit", "quotas")}, "  map[] false"},
	} {
		step.change.Name = "acme"
		got, err := r.UpdateTenant(ctx, step.change)
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.GetTenant(ctx, &tenantv1.GetTenantRequest{Name: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range []*tenantv1.Tenant{got, again} {
			var quotas []string
			for name, most := range one.GetQuotas() {
				quotas = append(quotas, named(name+":", int(most)))
			}
			have := one.GetDisplayName() + " " + one.GetRateLimit() + " map[" + strings.Join(quotas, " ") + "] "
			have += map[bool]string{true: "true", false: "false"}[one.GetDisabled()]
			if have != step.want {
				t.Errorf("%v gives %s, want %s", step.change, have, step.want)
			}
		}
	}
}

func TestKeysOnTheWire(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := newFixture(t)
	r := tenant.NewRPC(f.Service)
	at := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	made, err := r.CreateApiKey(ctx, &tenantv1.CreateApiKeyRequest{
		DisplayName: "ci", Scopes: []string{"queues.read"}, RateLimit: "9/h", Expiry: &tenantv1.CreateApiKeyRequest_ExpireTime{ExpireTime: timestamppb.New(at)},
	})
	k := made.GetApiKey()
	if err != nil || k.GetTenant() != "default" || k.GetDisplayName() != "ci" || !slices.Equal(k.GetScopes(), []string{"queues.read"}) ||
		k.GetRateLimit() != "9/h" || !k.GetExpireTime().AsTime().Equal(at) || k.RevokeTime != nil || k.LastUsedTime != nil ||
		k.GetCreateTime() == nil || !strings.HasPrefix(made.GetKey(), k.GetPrefix()) || k.GetId()[14] != '7' {
		t.Fatalf("made %v, %v", made, err)
	}
	brief, err := r.CreateApiKey(ctx, &tenantv1.CreateApiKeyRequest{
		Scopes: []string{"*"}, Expiry: &tenantv1.CreateApiKeyRequest_ExpiresIn{ExpiresIn: durationpb.New(time.Hour)},
	})
	if err != nil || time.Until(brief.GetApiKey().GetExpireTime().AsTime()).Round(time.Minute) != time.Hour {
		t.Errorf("made %v, %v", brief, err)
	}
	if forever, err := r.CreateApiKey(ctx, &tenantv1.CreateApiKeyRequest{Scopes: []string{"*"}}); err != nil || forever.GetApiKey().ExpireTime != nil {
		t.Errorf("made %v, %v", forever, err)
	}
	revoked, err := r.RevokeApiKey(ctx, &tenantv1.RevokeApiKeyRequest{Id: k.GetId()})
	if err != nil || revoked.GetRevokeTime() == nil {
		t.Errorf("revoked %v, %v", revoked, err)
	}
	again, err := r.RevokeApiKey(ctx, &tenantv1.RevokeApiKeyRequest{Id: k.GetId()})
	if err != nil || !again.GetRevokeTime().AsTime().Equal(revoked.GetRevokeTime().AsTime()) {
		t.Errorf("revoked again %v, %v", again, err)
	}
	got, err := r.GetApiKey(ctx, &tenantv1.GetApiKeyRequest{Id: k.GetId()})
	if err != nil || got.GetRevokeTime() == nil || got.GetDisplayName() != "ci" {
		t.Errorf("got %v, %v", got, err)
	}
	list, err := r.ListApiKeys(ctx, &tenantv1.ListApiKeysRequest{PageSize: 2})
	if err != nil || len(list.GetApiKeys()) != 2 || list.GetApiKeys()[1].GetId() != brief.GetApiKey().GetId() {
		t.Errorf("got %v, %v", list, err)
	}
	list, err = r.ListApiKeys(ctx, &tenantv1.ListApiKeysRequest{PageSize: 2, PageToken: list.GetNextPageToken()})
	if err != nil || len(list.GetApiKeys()) != 1 || list.GetApiKeys()[0].GetId() != k.GetId() || list.GetNextPageToken() != "" {
		t.Errorf("got %v, %v", list, err)
	}
}

// For every invalid request, the error names the problem and the field.
func TestWhatClientsMaySend(t *testing.T) {
	t.Parallel()
	r := tenant.NewRPC(newFixture(t).Service)
	ctx := t.Context()
	type call = func(bad string) error
	create := func(ctx context.Context, req *tenantv1.CreateApiKeyRequest) error {
		if req.Scopes == nil {
			req.Scopes = []string{"*"}
		}
		_, err := r.CreateApiKey(ctx, req)
		return err
	}
	in := func(d *durationpb.Duration) error {
		return create(ctx, &tenantv1.CreateApiKeyRequest{Expiry: &tenantv1.CreateApiKeyRequest_ExpiresIn{ExpiresIn: d}})
	}
	at := func(at *timestamppb.Timestamp) error {
		return create(ctx, &tenantv1.CreateApiKeyRequest{Expiry: &tenantv1.CreateApiKeyRequest_ExpireTime{ExpireTime: at}})
	}
	for name, test := range map[string]struct {
		call  call
		kind  errs.Kind
		field string
	}{
		"GetTenant": {func(bad string) error {
			_, err := r.GetTenant(ctx, &tenantv1.GetTenantRequest{Name: bad})
			return err
		}, errs.NotFound, ""},
		"UpdateTenant": {func(bad string) error {
			_, err := r.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: bad})
			return err
		}, errs.NotFound, ""},
		"DeleteTenant": {func(bad string) error {
			_, err := r.DeleteTenant(ctx, &tenantv1.DeleteTenantRequest{Name: bad})
			return err
		}, errs.NotFound, ""},
		"CreateTenant": {func(bad string) error {
			_, err := r.CreateTenant(ctx, &tenantv1.CreateTenantRequest{Name: bad})
			return err
		}, errs.InvalidArgument, "name"},
		"CreateApiKey": {func(bad string) error { return create(ctx, &tenantv1.CreateApiKeyRequest{Tenant: bad}) }, errs.NotFound, ""},
		"GetApiKey": {func(bad string) error {
			_, err := r.GetApiKey(ctx, &tenantv1.GetApiKeyRequest{Id: bad})
			return err
		}, errs.NotFound, ""},
		"RevokeApiKey": {func(bad string) error {
			_, err := r.RevokeApiKey(ctx, &tenantv1.RevokeApiKeyRequest{Id: bad})
			return err
		}, errs.NotFound, ""},
		"scopes": {func(bad string) error { return create(ctx, &tenantv1.CreateApiKeyRequest{Scopes: []string{bad}}) }, errs.InvalidArgument, "scopes"},
		"rate_limit of a key": {func(bad string) error {
			return create(ctx, &tenantv1.CreateApiKeyRequest{RateLimit: bad})
		}, errs.InvalidArgument, "rate_limit"},
		"rate_limit": {func(bad string) error {
			_, err := r.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: "default", RateLimit: bad})
			return err
		}, errs.InvalidArgument, "rate_limit"},
		"quotas": {func(bad string) error {
			_, err := r.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: "default", Quotas: map[string]int64{bad: 1}})
			return err
		}, errs.InvalidArgument, "quotas"},
		"negative quotas": {func(string) error {
			_, err := r.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: "default", Quotas: map[string]int64{"queues": -1}})
			return err
		}, errs.InvalidArgument, "quotas"},
		"update_mask": {func(bad string) error {
			_, err := r.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: "default", UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{bad}}})
			return err
		}, errs.InvalidArgument, "update_mask"},
		"display_name": {func(bad string) error {
			_, err := r.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: "default", DisplayName: bad + "\x00"})
			return err
		}, errs.InvalidArgument, "display_name"},
		"display_name of a key": {func(bad string) error {
			return create(ctx, &tenantv1.CreateApiKeyRequest{DisplayName: bad + "\x00"})
		}, errs.InvalidArgument, "display_name"},
		"page_token": {func(bad string) error {
			_, err := r.ListTenants(ctx, &tenantv1.ListTenantsRequest{PageToken: bad})
			return err
		}, errs.InvalidArgument, "page_token"},
		"page_token of keys": {func(bad string) error {
			_, err := r.ListApiKeys(ctx, &tenantv1.ListApiKeysRequest{PageToken: bad})
			return err
		}, errs.InvalidArgument, "page_token"},
		"expires_in 0":           {func(string) error { return in(durationpb.New(0)) }, errs.InvalidArgument, "expires_in"},
		"expires_in long":        {func(string) error { return in(durationpb.New(11 * 365 * 24 * time.Hour)) }, errs.InvalidArgument, "expires_in"},
		"expires_in longer":      {func(string) error { return in(&durationpb.Duration{Seconds: 1 << 62}) }, errs.InvalidArgument, "expires_in"},
		"expire_time now":        {func(string) error { return at(timestamppb.Now()) }, errs.InvalidArgument, "expire_time"},
		"expire_time ever":       {func(string) error { return at(timestamppb.New(time.Now().AddDate(11, 0, 0))) }, errs.InvalidArgument, "expire_time"},
		"expire_time far away":   {func(string) error { return at(&timestamppb.Timestamp{Seconds: 1 << 62}) }, errs.InvalidArgument, "expire_time"},
		"expire_time 1 AD":       {func(string) error { return at(&timestamppb.Timestamp{Seconds: -62135596800}) }, errs.InvalidArgument, "expire_time"},
		"disabled of default":    {func(string) error { return disable(ctx, r) }, errs.FailedPrecondition, ""},
		"deletion of default":    {func(string) error { return remove(ctx, r, "default") }, errs.FailedPrecondition, ""},
		"admin of others":        {func(string) error { return createAdmin(ctx, r) }, errs.InvalidArgument, "scopes"},
		"deletion of the absent": {func(string) error { return remove(ctx, r, "absent") }, errs.NotFound, ""},
	} {
		for _, bad := range []string{"\x00", "No'body", "a.b", "\xff", "-1", strings.Repeat("z", 5000), "*.*", "plinth-1/s"} {
			err := test.call(bad)
			var e *errs.Error
			if !errors.As(err, &e) || e.Kind != test.kind || test.field != "" && !strings.HasPrefix(e.Message, test.field+": ") || len(e.Message) > 500 {
				t.Errorf("%s with %.20q: %v", name, bad, err)
			}
		}
	}
	for _, bad := range []string{"\x00", "No'body", "\xff", "nobody"} {
		if list, err := r.ListApiKeys(ctx, &tenantv1.ListApiKeysRequest{Tenant: bad}); err != nil || len(list.GetApiKeys()) != 0 {
			t.Errorf("the keys of %q are %v, %v", bad, list, err)
		}
	}
}

func disable(ctx context.Context, r *tenant.RPC) error {
	_, err := r.UpdateTenant(ctx, &tenantv1.UpdateTenantRequest{Name: "default", Disabled: true})
	return err
}

func remove(ctx context.Context, r *tenant.RPC, name string) error {
	_, err := r.DeleteTenant(ctx, &tenantv1.DeleteTenantRequest{Name: name})
	return err
}

func createAdmin(ctx context.Context, r *tenant.RPC) error {
	_, err := r.CreateTenant(ctx, &tenantv1.CreateTenantRequest{Name: "acme"})
	if err != nil && !errs.Is(err, errs.AlreadyExists) {
		return err
	}
	_, err = r.CreateApiKey(ctx, &tenantv1.CreateApiKeyRequest{Tenant: "acme", Scopes: []string{"admin"}})
	return err
}
