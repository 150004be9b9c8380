package schedule

import (
	"context"
	"encoding/json"
	"time"

	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// alertInterval is how often one of the workers looks for schedules that are not doing well.
const alertInterval = 15 * time.Second

// Types of the events of alerts. The routing key is the type and the name of the schedule, with a dot between them.
const (
	late      = "late"
	noSuccess = "no_success"
)

// alarm is a schedule that is not doing well, whose owner has not been told.
type alarm struct {
	tenant, id, name, topic string
	late, noSuccess         *time.Time // since when; nil if it is well, or was told

	told []string // the types whose events are published
}

// alertEvent is what the topic of an alert has.
type alertEvent struct {
	Type     string    `json:"type"`
	Tenant   string    `json:"tenant"`
	Schedule string    `json:"schedule"`
	Since    time.Time `json:"since"`
	Time     time.Time `json:"time"`
}

// alert publishes an event for each schedule that is late or has not succeeded for too long, once until it recovers. It goes
// through the schedules of all tenants once, in small transactions; what a tenant's quota refuses is for the next time.
func (s *Service) alert(ctx context.Context) error {
	var last alarm
	found, err := hasAlarms(ctx, s.system)
	for more := found; more && err == nil; {
		err = s.system.InTx(ctx, func(tx *pg.Tx) error {
			alarms, now, err := lockAlarms(ctx, tx, last, sweepBatch)
			if more = len(alarms) == sweepBatch; err != nil || len(alarms) == 0 {
				return err
			}
			last = *alarms[len(alarms)-1]
			if err := s.tell(ctx, tx, now, alarms); err != nil {
				return err
			}
			return markAlarms(ctx, tx, alarms)
		})
	}
	return err
}

// tell publishes the events of alarms. The error is the database's.
func (s *Service) tell(ctx context.Context, tx *pg.Tx, now time.Time, alarms []*alarm) error {
	var batch []message.TenantPublication
	var of []*alarm
	var types []string
	for _, a := range alarms {
		for kind, since := range map[string]*time.Time{late: a.late, noSuccess: a.noSuccess} {
			if since == nil {
				continue
			}
			p, err := a.publication(kind, *since, now)
			if err != nil { // Its definition was not always valid.
				s.log.Error("an alert cannot be published", zap.String("tenant", a.tenant), zap.String("schedule", a.name), zap.Error(err))
				a.told = append(a.told, kind)
				continue
			}
			batch, of, types = append(batch, message.TenantPublication{Tenant: a.tenant, Publication: p}), append(of, a), append(types, kind)
		}
	}
	if len(batch) == 0 {
		return nil
	}
	results, err := s.messages.PublishBatchTx(ctx, tx, batch)
	if err != nil {
		return err
	}
	for i, a := range of {
		if !errs.Is(results[i].Err, errs.ResourceExhausted) { // That nobody listens is no error of ours.
			a.told = append(a.told, types[i])
		}
	}
	return nil
}

func (a *alarm) publication(kind string, since, now time.Time) (p message.Publication, err error) {
	if p.To, err = message.ToTopic(a.topic, kind+"."+a.name); err != nil {
		return p, err
	}
	p.Origin = message.Event
	p.Body, err = json.Marshal(alertEvent{Type: kind, Tenant: a.tenant, Schedule: a.name, Since: since.UTC(), Time: now.UTC()})
	return p, err
}
