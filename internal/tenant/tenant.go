package tenant

import (
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"plinth/internal/auth"
	"plinth/internal/errs"
	"plinth/internal/pg"
)

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// checkName requires 1 to 63 lower-case letters, digits and '-', the first one a letter. A dot is not allowed, because it
// ends the tenant's name in the names of its queues on the broker.
func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return errs.New(errs.InvalidArgument,
			"name: %.64q is no tenant's name: 1 to 63 lower-case letters, digits and '-', the first one a letter", name)
	}
	return nil
}

// checkNew also requires that a new tenant's name is not "amq": RabbitMQ refuses queues whose names begin with "amq.".
func checkNew(name string) error {
	if name == "amq" {
		return errs.New(errs.InvalidArgument, "name: %q is reserved: RabbitMQ keeps the names that begin with it for itself", name)
	}
	return checkName(name)
}

// checkDisplayName requires text that PostgreSQL can store.
func checkDisplayName(name string) error {
	if !pg.IsText(name) {
		return errs.New(errs.InvalidArgument, "display_name: valid UTF-8 without U+0000 is allowed")
	}
	return nil
}

// Tenant is one of those who share the service.
type Tenant struct {
	Name        string
	DisplayName string // for people
	Disabled    bool
	Rate        auth.Rate        // of its calls; zero means the service's default
	Quotas      map[string]int64 // that differ from the service's defaults; 0 means no limit
	CreatedAt   time.Time
	DeletedAt   time.Time        // when its deletion began; zero if it is not being deleted
	Remaining   int64            // rows left of a tenant that is being deleted, up to maxRemaining per table; set only by Service.GetTenant
	Usage       map[string]int64 // of what the quotas count; set only by Service.GetTenant
}

// maxRemaining is how far the rows of a table are counted.
const maxRemaining = 100_000

func (t Tenant) isDeleted() bool { return !t.DeletedAt.IsZero() }

// record returns the tenant as a principal has it.
func (t Tenant) record() auth.Tenant {
	return auth.Tenant{Name: t.Name, Rate: t.Rate, Quotas: t.Quotas, RateSlot: new(atomic.Value)}
}

// Key is an API key, without the key itself.
type Key struct {
	ID          string // UUIDv7
	Tenant      string
	DisplayName string
	Prefix      string // for people to recognize the key
	Scopes      []string
	Rate        auth.Rate // of the calls with it; zero means the service's default
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero means never, as in the next two
	RevokedAt   time.Time
	LastUsedAt  time.Time // to the minute
}

// checkScopes requires scopes that methods name, scopes of a whole domain, or all. The scope of administrators is only
// for keys of the default tenant.
func (s *Service) checkScopes(k Key) error {
	for _, scope := range k.Scopes {
		switch {
		case slices.Contains(s.scopes, scope) && scope != auth.Admin, slices.Contains(s.domains, scope), scope == auth.All:
		case scope == auth.Admin && k.Tenant == auth.DefaultTenant:
		case scope == auth.Admin:
			return errs.New(errs.InvalidArgument, "scopes: %q is for keys of the tenant %q alone", scope, auth.DefaultTenant)
		default:
			return errs.New(errs.InvalidArgument, "scopes: %.64q is not known; allowed are %q, %q, %q, and %q for administrators",
				scope, s.scopes, s.domains, auth.All, auth.Admin)
		}
	}
	return nil
}

func errNoTenant(name string) error {
	return errs.New(errs.NotFound, "tenant: %.64q does not exist; create it with CreateTenant", name)
}

func errDeleted(name string) error {
	return errs.New(errs.FailedPrecondition, "name: the tenant %q is being deleted", name)
}

func errNoKey(id string) error { return errs.New(errs.NotFound, "id: there is no API key %.64q", id) }
