package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"plinth/internal/loop"
)

const (
	sweepInterval = 5 * time.Minute
	zoneInterval  = time.Hour
	sealInterval  = 24 * time.Hour
)

// Jobs are this domain's own.
func (s *Service) Jobs() []loop.Job {
	return []loop.Job{
		{Name: "schedule-sweep", About: "removes runs, changes and keys of schedules that have been kept long enough", Interval: sweepInterval, Run: s.sweep},
		{Name: "schedule-alerts", About: "publishes events about schedules that are late or do not succeed", Interval: alertInterval, Run: s.alert},
		{Name: "schedule-zones", About: "computes next fire times anew where the rules of time zones have changed", Interval: zoneInterval, Run: s.followZones},
		{Name: "schedule-secrets", About: "encrypts secrets of schedules with the first of SECRET_KEYS", Interval: sealInterval, Run: s.sealAnew},
	}
}

// sweep removes everything that has been kept long enough, in small transactions.
func (s *Service) sweep(ctx context.Context) error {
	var failed error
	for _, rule := range retention {
		for n := int64(sweepBatch); n == sweepBatch; {
			var err error
			if n, err = deleteExpired(ctx, s.system, rule.table, rule.expired); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", rule.what, err))
			}
		}
	}
	return failed
}
