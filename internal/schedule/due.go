package schedule

import (
	"context"
	"sync"
	"time"

	"plinth/internal/pg"
)

// maxTenants is how many tenants one round looks at. The next round continues after them.
const maxTenants = 1000

// turns goes from tenant to tenant, so that all that have due rows get equal shares of a batch.
type turns struct {
	table, column string // whose rows are due when
	mu            sync.Mutex
	cursor        string // the tenant after which the next round begins
}

// tenantDue is the time until the earliest row of a tenant is due. It is negative if that is due.
type tenantDue struct {
	tenant string
	due    time.Duration
}

// share is how many rows of a tenant a batch takes.
type share struct {
	tenant string
	rows   int
}

// round returns the tenants that have due rows, each with its share of a batch. next is how long nothing is due if there are none;
// full reports whether the round left out tenants.
func (t *turns) round(ctx context.Context, tx *pg.Tx, batch int) (shares []share, next time.Duration, full bool, err error) {
	if next, err = selectEarliest(ctx, tx, t); err != nil || next > 0 {
		return nil, next, false, err
	}
	t.mu.Lock()
	from := t.cursor
	t.mu.Unlock()
	seen, err := selectTenants(ctx, tx, t, from, maxTenants)
	if err != nil {
		return nil, 0, false, err
	}
	var due []string
	after := ""
	for _, s := range seen {
		if s.due > 0 {
			continue
		}
		if len(due) == batch {
			break
		}
		due, after = append(due, s.tenant), s.tenant
	}
	full = len(due) == batch || len(seen) == maxTenants || from != ""
	if len(due) < batch {
		if after = ""; len(seen) == maxTenants {
			after = seen[len(seen)-1].tenant
		}
	}
	t.mu.Lock()
	t.cursor = after
	t.mu.Unlock()
	for _, tenant := range due {
		shares = append(shares, share{tenant, max(1, batch/len(due))})
	}
	return shares, 0, full, nil
}
