package cron_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"plinth/internal/cron"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ expr, english, chinese string }{
		{"* * * * *", "Every minute", "每分钟"},
		{"*/15 * * * *", "Every 15 minutes", "每 15 分钟"},
		{"*/7 * * * *", "At every 7th minute from 0", "从 0 起每 7 分钟"},
		{"30 2 * * *", "At 02:30, every day", "每天，02:30"},
		{"0,30 9,17 * * MON-FRI", "At 09:00, 09:30, 17:00 and 17:30, on Monday to Friday", "每周一至周五，09:00、09:30、17:00、17:30"},
		{"0 9-17 * * *", "At minute 0 of the hours 9 to 17", "9 至 17 点的第 0 分钟"},
		{"*/10 9-17 * * *", "Every 10 minutes in the hours 9 to 17", "9 至 17 点内每 10 分钟"},
		{"0 */2 * * *", "At minute 0 of every 2nd hour from 0", "从 0 点起每 2 小时的第 0 分钟"},
		{"@hourly", "At minute 0 of every hour", "每小时的第 0 分钟"},
		{"@weekly", "At 00:00, on Sunday", "每周日，00:00"},
		{"0 0 1,15 * 5", "At 00:00, on day 1 and day 15 of the month or on Friday", "每月 1 日、15 日，或每周五，00:00"},
		{"0 0 */2 * 1", "At 00:00, on every 2nd day from day 1 of the month, but only on Monday", "每月从 1 日起每 2 天，且须为周一，00:00"},
		{"0 0 L-3,15W,LW 1,4-6 *", "At 00:00, on the 3rd day before the last, the weekday nearest to day 15 and the last weekday of the month, in January and April to June",
			"1 月、4 至 6 月，当月倒数第 4 天、离 15 日最近的工作日、最后一个工作日，00:00"},
		{"30 2 * 3,10 SUNL", "At 02:30, on the last Sunday of the month, in March and October", "3 月、10 月，当月最后一个周日，02:30"},
		{"0 9 * */3 5#3", "At 09:00, on the 3rd Friday of the month, in January, April, July and October", "1 月、4 月、7 月、10 月，当月第 3 个周五，09:00"},
		{"*/15 30 2 * * *", "Every 15 seconds in minute 30 of hour 2", "2 点的第 30 分钟内每 15 秒"},
		{"1 * * * * *", "At second 1 of every minute", "每分钟的第 1 秒"},
		{"30 0 0 * * *", "At 00:00:30, every day", "每天，00:00:30"},
	} {
		s := parse(t, c.expr)
		if got := s.Describe(cron.English); got != c.english {
			t.Errorf("%q: %q, want %q", c.expr, got, c.english)
		}
		if got := s.Describe(cron.Chinese); got != c.chinese {
			t.Errorf("%q: %q, want %q", c.expr, got, c.chinese)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	gap := "the clock in Europe/Berlin leaves out 2027-03-28T02:30:00: it "
	twice := "the clock in Europe/Berlin shows 2027-10-31T02:30:00 twice: it fires "
	for _, c := range []struct {
		expr   string
		policy cron.Policy
		want   []string
	}{
		{"0 9 * * *", cron.Policy{}, nil},
		{"*/15 * * * *", cron.Policy{}, nil},
		{"30 2 * * *", cron.Policy{}, []string{gap + "fires at 03:00:00 +0200 instead", twice + "the first time only"}},
		{"30 2 * * *", cron.Policy{Gap: cron.GapSkip, Overlap: cron.OverlapTwice}, []string{gap + "does not fire then", twice + "both times"}},
		{"30 * * * *", cron.Policy{Gap: cron.GapShift, Overlap: cron.OverlapOnce}, []string{gap + "fires at 03:00:00 +0200 instead", twice + "the first time only"}},
		{"30 2 * 3 SUNL", cron.Policy{Gap: cron.GapSkip}, []string{gap + "does not fire then", "with this dst_policy it never fires in Europe/Berlin"}},
		{"0 9 31 * *", cron.Policy{}, []string{"there is no day 31 in February, April, June, September and November"}},
		{"0 9 30W 1-3 *", cron.Policy{}, []string{"there is no day 30 in February"}},
		{"0 9 29 2 *", cron.Policy{}, []string{"there is a day 29 in February in leap years only", "it does not fire before 2028-02-29"}},
		{"0 9 1,15 * 5", cron.Policy{}, []string{"day of month and day of week are both set: a day that matches one of them is enough"}},
		{"0 9 1-7 * */3", cron.Policy{}, []string{"day of week */3: steps are counted anew in each week, so the last one is shorter",
			"day of month or day of week begins with *: a day has to match both of them"}},
		{"* 9 * * *", cron.Policy{}, []string{"minute is *: it fires in each of the 60 minutes of an hour that matches"}},
		{"* 0 * * * *", cron.Policy{}, []string{"second is *: it fires 60 times in each minute that matches"}},
		{"*/7 * * * *", cron.Policy{}, []string{"minute */7: steps are counted anew in each hour, so the last one is shorter"}},
		{"*/90 * * * *", cron.Policy{}, []string{"minute */90: the step is as long as the field, so only 0 matches"}},
		{"0 9 */2 * *", cron.Policy{}, []string{"day of month */2: steps are counted anew in each month, so the last one is shorter"}},
		{"0 9 * * MON#5", cron.Policy{}, []string{"not every month has a fifth Monday"}},
	} {
		if got := parse(t, c.expr).Warnings(now, load(t, "Europe/Berlin"), c.policy); !slices.Equal(got, c.want) {
			t.Errorf("%q, %+v:\n%s\nwant\n%s", c.expr, c.policy, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// Go tells the end of a zone's last stretch of a leap year twice, and no time on the wire is later than 9999.
func TestWarningsFarAway(t *testing.T) {
	t.Parallel()
	for year, want := range map[int]int{2027: 2, 2400: 2, 9998: 2, 9999: 0} {
		after := time.Date(year, 12, 30, 0, 0, 0, 0, time.UTC)
		if year == 2400 {
			after = time.Date(year, 1, 31, 0, 0, 0, 0, time.UTC)
		}
		if got := parse(t, "30 2 * * *").Warnings(after, load(t, "Europe/Berlin"), cron.Policy{}); len(got) != want {
			t.Errorf("after %s: %q", after, got)
		}
	}
}

func TestSkipped(t *testing.T) {
	t.Parallel()
	berlin := load(t, "Europe/Berlin")
	from, until := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		expr   string
		policy cron.Policy
		want   []string
	}{
		{"0,20 2 * * *", cron.Policy{}, []string{
			"2027-03-28T02:20:00 2027-03-28T01:00:00Z " + cron.Collapsed.String(),
			"2027-10-31T02:00:00 2027-10-31T01:00:00Z " + cron.Repeated.String(), "2027-10-31T02:20:00 2027-10-31T01:20:00Z " + cron.Repeated.String()}},
		{"0,20 2 * * *", cron.Policy{Gap: cron.GapSkip, Overlap: cron.OverlapTwice}, []string{
			"2027-03-28T02:00:00 2027-03-28T01:00:00Z " + cron.InGap.String(), "2027-03-28T02:20:00 2027-03-28T01:00:00Z " + cron.InGap.String()}},
		{"0 3 * * *", cron.Policy{}, nil},
	} {
		var got []string
		for s := range parse(t, c.expr).Skipped(from, until, berlin, c.policy) {
			got = append(got, s.Local+" "+s.Time.UTC().Format(time.RFC3339)+" "+s.Reason.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%q, %+v: %q, want %q", c.expr, c.policy, got, c.want)
		}
	}
	n := 0
	for range parse(t, "* * * * * *").Skipped(from, until, berlin, cron.Policy{}) {
		if n++; n == 10 {
			break
		}
	}
	if n != 10 {
		t.Errorf("%d skips of a gap of an hour of seconds", n)
	}
}
