package cron

import (
	"fmt"
	"strings"
)

// chinese describes an expression in simplified Chinese.
type chinese struct{ parsed }

func (d chinese) sentence(clocks []string) string {
	var parts []string
	if !all(d.month) {
		parts = append(parts, chineseList(phrases(unrolled(d.month), func(e element) string { return d.span(e, " 月") })))
	}
	if days := d.days(); days != "" {
		parts = append(parts, days)
	} else if clocks != nil {
		parts = append(parts, "每天")
	}
	if clocks != nil {
		parts = append(parts, chineseList(clocks))
	} else {
		parts = append(parts, d.within())
	}
	return strings.Join(parts, "，")
}

// within says at which times of a day it is.
func (d chinese) within() string {
	second, fixed := only(d.second)
	seconds := !fixed || second != 0
	_, often := every(d.minute)
	var text string
	if !all(d.hour) || !often {
		text = d.hours()
	}
	_, run := every(d.second)
	if !all(d.minute) || !seconds || !run {
		text = join(text, d.unit(d.minute, "分钟"), often)
	}
	if seconds {
		text = join(text, d.unit(d.second, "秒"), run)
	}
	return text
}

// join puts a smaller unit behind a larger one.
func join(larger, smaller string, often bool) string {
	switch {
	case larger == "":
		return smaller
	case often:
		return larger + "内" + smaller
	default:
		return larger + "的" + smaller
	}
}

// unit describes the seconds or the minutes.
func (d chinese) unit(elements []element, unit string) string {
	step, often := every(elements)
	switch {
	case often && step == 1:
		return "每" + unit
	case often && 60%step == 0:
		return fmt.Sprintf("每 %d %s", step, unit)
	case often:
		return fmt.Sprintf("从 0 起每 %d %s", step, unit)
	default:
		return "第 " + chineseList(phrases(elements, func(e element) string { return d.span(e, "") })) + " " + unit
	}
}

func (d chinese) hours() string {
	step, often := every(d.hour)
	switch {
	case often && step == 1:
		return "每小时"
	case often:
		return fmt.Sprintf("从 0 点起每 %d 小时", step)
	default:
		return chineseList(phrases(d.hour, func(e element) string { return d.span(e, " 点") }))
	}
}

// days is empty for every day.
func (d chinese) days() string {
	month := "每月"
	if !all(d.month) {
		month = "当月"
	}
	byMonth := chineseList(phrases(d.day, d.monthDay))
	if byMonth[0] < 0x80 { // It begins with a number.
		byMonth = " " + byMonth
	}
	byMonth = month + byMonth
	byWeek := chineseList(phrases(unrolled(d.weekday), func(e element) string { return d.weekDay(e, month) }))
	switch {
	case all(d.day) && all(d.weekday):
		return ""
	case all(d.day):
		return weekly(byWeek)
	case all(d.weekday):
		return byMonth
	case anything(d.texts[3]) || anything(d.texts[5]):
		return byMonth + "，且须为" + byWeek
	default:
		return byMonth + "，或" + weekly(byWeek)
	}
}

func weekly(days string) string {
	if strings.HasPrefix(days, "周") {
		return "每" + days
	}
	return days
}

func (d chinese) monthDay(e element) string {
	switch {
	case e.form == lastDay && e.low == 0:
		return "最后一天"
	case e.form == lastDay:
		return fmt.Sprintf("倒数第 %d 天", e.low+1)
	case e.form == nearestDay:
		return fmt.Sprintf("离 %d 日最近的工作日", e.low)
	case e.form == lastWorkday:
		return "最后一个工作日"
	case e.form == everything && e.step == 1:
		return "每一天"
	case e.form == everything:
		return fmt.Sprintf("从 1 日起每 %d 天", e.step)
	default:
		return d.span(e, " 日")
	}
}

func (d chinese) weekDay(e element, month string) string {
	switch {
	case e.form == lastOfWeek:
		return month + "最后一个" + chineseWeekday(e.low)
	case e.form == nthOfWeek:
		return fmt.Sprintf("%s第 %d 个%s", month, e.high, chineseWeekday(e.low))
	case e.form == everything:
		return "任意一天"
	case e.low == e.high:
		return chineseWeekday(e.low)
	default:
		return chineseWeekday(e.low) + "至" + chineseWeekday(e.high)
	}
}

// span describes one value, or one from another on, with their unit.
func (d chinese) span(e element, unit string) string {
	switch {
	case e.low == e.high:
		return fmt.Sprintf("%d%s", e.low, unit)
	case e.step == 1:
		return fmt.Sprintf("%d 至 %d%s", e.low, e.high, unit)
	default:
		return fmt.Sprintf("%d 至 %d%s（间隔 %d）", e.low, e.high, unit, e.step)
	}
}

func chineseWeekday(n int) string {
	return "周" + [...]string{"日", "一", "二", "三", "四", "五", "六"}[n%7]
}

func chineseList(items []string) string { return strings.Join(items, "、") }
