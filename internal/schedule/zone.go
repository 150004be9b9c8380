package schedule

import (
	"context"
	"time"

	"go.uber.org/zap"

	"plinth/internal/loop"
	"plinth/internal/pg"
)

// followZonesNow is followZones once, at the start of a worker: a release or its machine may have brought other rules. A database that is
// away is waited for.
func (s *Service) followZonesNow(ctx context.Context) {
	backoff := loop.Backoff{Min: time.Second, Max: time.Minute}
	for {
		err := s.followZones(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("next fire times are not compared with the rules of their time zones, trying again", zap.Error(err))
		if !loop.Sleep(ctx, backoff.Next()) {
			return
		}
	}
}

// followZones computes the next fire times anew of schedules in time zones whose rules are others here than where these were
// computed. A fire time that has come stays: its run belongs to it.
func (s *Service) followZones(ctx context.Context) error {
	planned, err := selectZones(ctx, s.system)
	if err != nil {
		return err
	}
	for _, z := range planned {
		if version := s.zones.Version(z.name); version == "" || version == z.version { // One that is unknown here may be known elsewhere.
			continue
		}
		s.log.Info("the rules of a time zone have changed, computing next fire times anew", zap.String("time_zone", z.name))
		for more := true; more; {
			if err := s.system.InTx(ctx, func(tx *pg.Tx) error {
				more, err = s.followZone(ctx, tx, z)
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// followZone is followZones for some of the schedules of a zone. It reports whether there may be more.
func (s *Service) followZone(ctx context.Context, tx *pg.Tx, z plannedZone) (more bool, err error) {
	claimed, err := lockZone(ctx, tx, z, sweepBatch)
	if err != nil || len(claimed) == 0 {
		return false, err
	}
	for _, f := range claimed {
		due, known := f.schedule.followRules(s, f.tenant)
		if err := updateNext(ctx, tx, f.tenant, f.schedule, s.zones.Version(z.name), due, known); err != nil {
			return false, err
		}
	}
	s.wakeTicks(tx)
	return len(claimed) == sweepBatch, nil
}

// followRules sets the next fire time by the rules of the zone as they are here, and returns when it is due. It is the first one later
// than what was claimed, and than the last change of the schedule: what the new rules put into the past comes late rather than never.
// known is false for a schedule that cannot be planned, which whoever fires it finds out.
func (s *Schedule) followRules(service *Service, tenant string) (due time.Time, known bool) {
	c, err := s.clock(&service.zones, tenant)
	if err != nil || s.nextFire.IsZero() {
		return time.Time{}, err == nil
	}
	if next, ok := c.next(later(s.lastFire, s.UpdatedAt)); !ok {
		s.nextFire = time.Time{}
	} else if s.nextFire.After(s.now) {
		s.nextFire = next.Time
	}
	if s.nextFire.IsZero() || s.Pause != nil {
		return time.Time{}, true
	}
	return c.due(s.nextFire), true
}
