package auth_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"plinth/internal/auth"
	"plinth/internal/errs"
)

func TestAllows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		has  string // scopes with spaces between
		want string
		ok   bool
	}{
		{"", "queues.read", false},
		{"queues.read", "queues.read", true},
		{"queues.read", "queues.write", false},
		{"queues.read", "queues", false},
		{"queues.read", "queues.read.all", false},
		{"queues", "queues.read", false},
		{"files.read queues.read", "queues.read", true},
		{"queues.*", "queues.read", true},
		{"queues.*", "queues.read.all", true},
		{"queues.*", "queuesx.read", false},
		{"queues.*", "queues", false},
		{"files.* queues.*", "queues.read", true},
		{"*", "queues.read", true},
		{"*", "*", true},
		{"*", "admin", false},
		{"* admin", "admin", true},
		{"admin.*", "admin", false},
		{"queues.* admin.*", "admin", false},
		{"queues.admin", "admin", false},
		{"*.*", "queues.read", false},
		{"Admin", "admin", false},
		{"admin", "admin", true},
		{"admin", "queues.read", true},
		{"admin", "*", true},
	} {
		p := &auth.Principal{Scopes: strings.Fields(test.has)}
		if got := p.Allows(test.want); got != test.ok {
			t.Errorf("%q allows %q: %v", test.has, test.want, got)
		}
		if p.IsAdmin() != slices.Contains(p.Scopes, "admin") {
			t.Errorf("%q is admin: %v", test.has, p.IsAdmin())
		}
	}
	for _, has := range []string{"admin", "*", "queues.*", "", ".*"} {
		if (&auth.Principal{Scopes: []string{has}}).Allows("") {
			t.Errorf("%q allows what has no scope", has)
		}
	}
}

func TestWhoActs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	if p := auth.From(ctx); p.ID != "" || auth.TenantOf(ctx) != "" || p.IsAdmin() || p.Allows("queues.read") {
		t.Errorf("nobody acts, and it is %+v", p)
	}
	alice := &auth.Principal{ID: "jwt:alice", Tenant: auth.Tenant{Name: "acme"}, Scopes: []string{"queues.read"}}
	ctx = auth.With(ctx, alice)
	if auth.From(ctx) != alice || auth.TenantOf(ctx) != "acme" {
		t.Errorf("alice acts, and it is %+v", auth.From(ctx))
	}
	if auth.From(auth.AsService(ctx, "acme")) != alice {
		t.Error("within her tenant alice does not act any more")
	}
	other := auth.AsService(ctx, "other")
	if p := auth.From(other); p.ID != "service" || auth.TenantOf(other) != "other" || p.IsAdmin() || !p.Allows("queues.write") {
		t.Errorf("the service acts for another tenant as %+v", p)
	}
	if p := auth.Anonymous(); p.ID != "anonymous" || p.Tenant.Name != auth.DefaultTenant || !p.IsAdmin() {
		t.Errorf("anonymous is %+v", p)
	}
}

func TestBearer(t *testing.T) {
	t.Parallel()
	for _, headers := range [][]string{{"Bearer a.b-c"}, {"bearer a.b-c"}, {"BEARER a.b-c"}, {"Bearer   a.b-c "}} {
		if token, err := auth.Bearer(headers); err != nil || token != "a.b-c" {
			t.Errorf("%q: %q, %v", headers, token, err)
		}
	}
	for _, headers := range [][]string{
		nil, {}, {""}, {"Bearer"}, {"Bearer "}, {"a.b-c"}, {"Basic c2VjcmV0"}, {"Bearera.b-c"}, {"Bearer\ta.b-c"}, {" Bearer a.b-c"},
		{"Bearer a.b-c", "Bearer a.b-c"}, {"Bearer a.b-c", ""}, {"", "Bearer a.b-c"},
	} {
		token, err := auth.Bearer(headers)
		if token != "" || !errs.Is(err, errs.Unauthenticated) {
			t.Errorf("%q: %q, %v", headers, token, err)
		} else if strings.Contains(err.Error(), "a.b-c") || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}
