package schedule

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/pg"
)

// plannedZone is a time zone with a version of its rules by which next fire times were computed.
type plannedZone struct{ name, version string }

func selectZones(ctx context.Context, db pg.Querier) ([]plannedZone, error) {
	rows, err := db.Query(ctx, `
		WITH RECURSIVE zones AS (
			(SELECT time_zone, zone_version FROM schedules WHERE time_zone <> '' ORDER BY time_zone, zone_version LIMIT 1)
			UNION ALL
			SELECT s.time_zone, s.zone_version FROM zones z CROSS JOIN LATERAL (
				SELECT time_zone, zone_version FROM schedules WHERE time_zone <> '' AND (time_zone, zone_version) > (z.time_zone, z.zone_version)
				ORDER BY time_zone, zone_version LIMIT 1) AS s
		)
		SELECT time_zone, zone_version FROM zones`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (z plannedZone, err error) {
		return z, row.Scan(&z.name, &z.version)
	})
}

// lockZone locks schedules whose next fire times were computed by a version of a zone's rules. It leaves out those that others have
// locked: what fires or changes a schedule writes the version, too.
func lockZone(ctx context.Context, tx *pg.Tx, z plannedZone, limit int) ([]*firing, error) {
	rows, err := tx.Query(ctx, `SELECT `+scheduleColumns+`, s.tenant, now() FROM schedules s
		WHERE time_zone <> '' AND time_zone = $1 AND zone_version = $2 LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED`, z.name, z.version, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*firing, error) { return scanFiring(row) })
}

// updateNext writes the next fire time of a schedule, unless that is not known, or it is put off for a fault.
func updateNext(ctx context.Context, tx *pg.Tx, tenant string, s *Schedule, version string, due time.Time, known bool) error {
	_, err := tx.Exec(ctx, `UPDATE schedules SET zone_version = $3, next_fire_at = CASE WHEN $6 AND faults = 0 THEN $4 ELSE next_fire_at END,
			next_due_at = CASE WHEN $6 AND faults = 0 THEN $5 ELSE next_due_at END
		WHERE tenant = $1 AND id = $2::uuid`, tenant, s.id, version, unlessZero(s.nextFire), unlessZero(due), known)
	return err
}
