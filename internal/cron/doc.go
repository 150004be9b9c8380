// Package cron parses cron expressions and computes the times at which they fire. It knows nothing of schedules and does no I/O
// but that of loading a time zone.
//
// # Expressions
//
// An expression has five fields, or six with the second first:
//
//	second        0-59          * ? , - /
//	minute        0-59          * ? , - /
//	hour          0-23          * ? , - /
//	day of month  1-31          * ? , - / L L-n nW LW
//	month         1-12 JAN-DEC  * ? , - /
//	day of week   0-7 SUN-SAT   * ? , - / dL d#n
//
// 0 and 7 are Sunday. Names may be in any case. ? is *, and N/step is N-max/step. L is the last day of the month, L-n the n-th day
// before it, nW the weekday nearest to day n of the same month, LW the last weekday, 5L the last Friday, 5#3 the third one.
// @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly stand for expressions.
//
// A field that begins with * or ? does not restrict. If both day of month and day of week restrict, a day matches if either does;
// otherwise both have to match, so that the * of */2 makes it an AND, as in Vixie's cron (crontab(5)).
//
// # Wall time
//
// The matcher works on the wall clock alone and is never given a zone. Spec.Next walks over the stretches of a zone in which its
// offset is constant, and has the matcher look for a match in each. What holds for daylight saving thus holds for every change of
// an offset, of any length: Apia had no 30 December 2011.
//
// # Daylight saving
//
// Without a Policy an expression whose minute or hour field begins with * follows real time: it fires at every instant that
// matches, in both passes of a wall time that is repeated, and never in addition. Any other fires once for each wall time: those
// in a gap fire together, once, at the first instant after it, and one that is repeated fires in its first pass. That is the rule
// of Debian's cron. A Policy sets either half of it for any expression.
//
// # Zones
//
// The zone database is that of the machine, else the one of the Go release, which is linked in. A next time is
// kept with the ZoneVersion that it was computed by, which changes when the rules of the zone do.
package cron
