package schedule

import (
	"cmp"
	"container/heap"
	"context"
	"time"

	"plinth/internal/auth"
	"plinth/internal/cron"
)

// Upcoming is a run that is planned.
type Upcoming struct {
	Schedule Name
	Fire
}

// ListUpcoming lists the next fire times of all schedules together, the earliest first: up to size, and before end unless that is
// zero. 0 means 100, and more than 1,000 means 1,000.
func (s *Service) ListUpcoming(ctx context.Context, size int, end time.Time) (found []Upcoming, err error) {
	if size <= 0 {
		size = 100
	}
	size = min(size, 1000)
	// Whatever fires after the first fire times of so many schedules has its place behind them.
	var queue upcoming
	for after, last, more := (time.Time{}), (Name{}), true; more && len(queue) < size; {
		schedules, err := selectUpcoming(ctx, s.db, after, last, size)
		if err != nil {
			return nil, err
		}
		more = len(schedules) == size
		for i := range schedules {
			after, last = schedules[i].nextFire, schedules[i].Name
			c, err := schedules[i].clock(&s.zones, auth.TenantOf(ctx))
			if err != nil {
				continue // It is the schedule's error, which Get tells.
			}
			queue = append(queue, planAhead{&c, last, Fire{Time: after, Due: c.due(after)}, schedules[i].Remaining})
		}
	}
	heap.Init(&queue)
	for len(queue) > 0 && len(found) < size {
		p := &queue[0]
		if !end.IsZero() && !p.fire.Time.Before(end) {
			heap.Pop(&queue)
			continue
		}
		found = append(found, Upcoming{p.name, p.fire})
		if !p.advance() {
			heap.Pop(&queue)
			continue
		}
		heap.Fix(&queue, 0)
	}
	return found, nil
}

// planAhead is a schedule at one of its fire times.
type planAhead struct {
	clock *clock
	name  Name
	fire  Fire
	left  *int64 // runs, this one among them; nil is no limit
}

// advance goes to the next fire time. It reports false if there is none.
func (p *planAhead) advance() (ok bool) {
	if p.left != nil {
		left := *p.left - 1
		if p.left = &left; left <= 0 {
			return false
		}
	}
	p.fire, ok = p.clock.next(p.fire.Time)
	return ok
}

// upcoming is a heap of schedules, that which fires first on top.
type upcoming []planAhead

func (u upcoming) Len() int { return len(u) }
func (u upcoming) Less(i, j int) bool {
	return cmp.Or(u[i].fire.Time.Compare(u[j].fire.Time), cmp.Compare(u[i].name.name, u[j].name.name)) < 0
}
func (u upcoming) Swap(i, j int) { u[i], u[j] = u[j], u[i] }
func (u *upcoming) Push(x any)   { *u = append(*u, x.(planAhead)) }
func (u *upcoming) Pop() any {
	last := len(*u) - 1
	p := (*u)[last]
	*u = (*u)[:last]
	return p
}

// maxSkipped is the most skipped wall times that a preview returns.
const maxSkipped = 100

// Preview is when a timing fires.
type Preview struct {
	Fires       []Fire
	Skipped     []cron.Skip // within their range, up to 100
	Warnings    []string
	Description string
}

// Asked says what a preview is to show.
type Asked struct {
	Name     string    // of the schedule that the delays of a jitter are for
	After    time.Time // fire times are later; zero is now
	Count    int       // most fire times: 0 is 10, and more than 1,000 is 1,000
	Language cron.Language
}

// Preview returns when a timing fires, without a schedule. Errors: InvalidArgument.
func (s *Service) Preview(ctx context.Context, t Timing, asked Asked) (p Preview, err error) {
	now, err := selectNow(ctx, s.db)
	if err != nil {
		return Preview{}, err
	}
	after := asked.After
	if after.IsZero() {
		after = now
	}
	c, err := newClock(&s.zones, t, now, auth.TenantOf(ctx), asked.Name)
	if err != nil {
		return Preview{}, err
	}
	count := min(asked.Count, 1000)
	if count <= 0 {
		count = 10
	}
	for f, ok := c.next(after); ok && len(p.Fires) < count; f, ok = c.next(f.Time) {
		p.Fires = append(p.Fires, f)
	}
	p.Description = c.describe(asked.Language)
	if c.Cron == "" || len(p.Fires) == 0 {
		return p, nil
	}
	p.Warnings = c.spec.Warnings(after, c.zone, c.DST)
	for skip := range c.spec.Skipped(after, p.Fires[len(p.Fires)-1].Time, c.zone, c.DST) {
		if len(p.Skipped) == maxSkipped {
			break
		}
		p.Skipped = append(p.Skipped, skip)
	}
	return p, nil
}

// describe returns the timing in words.
func (c *clock) describe(l cron.Language) string {
	switch {
	case c.Cron != "":
		return c.spec.Describe(l)
	case c.Interval != 0 && l == cron.Chinese:
		return "每隔 " + c.Interval.String()
	case c.Interval != 0:
		return "Every " + c.Interval.String()
	case l == cron.Chinese:
		return "在 " + c.At.Format(time.RFC3339) + " 执行一次"
	default:
		return "Once, at " + c.At.Format(time.RFC3339)
	}
}
