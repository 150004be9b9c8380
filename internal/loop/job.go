package loop

import (
	"context"
	"time"
)

// Job is work of the service itself, such as removing what was kept long enough, that a worker of the cluster does about once in an
// interval. Usually only one of them does it; after a fault each may. So its effects must be idempotent, also while it runs twice at the
// same time.
type Job struct {
	Name     string // unique in the service: lower-case letters and '-'
	About    string // what it does, for people
	Interval time.Duration
	// Run does the work. It is tried again in the next interval if it fails.
	Run func(ctx context.Context) error
}
