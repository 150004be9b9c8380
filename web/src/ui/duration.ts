import { create } from "@bufbuild/protobuf";
import { DurationSchema, timestampFromDate, type Duration, type Timestamp } from "@bufbuild/protobuf/wkt";

const units: Record<string, number> = { ms: 0.001, s: 1, m: 60, min: 60, h: 3600, d: 86_400 };

/** seconds returns how long a duration is; 0 for none. */
export function seconds(d: Duration | undefined): number {
  return d ? Number(d.seconds) + d.nanos / 1e9 : 0;
}

/** longest is the most seconds that a Duration has: 10,000 years. */
const longest = 315_576_000_000;

/** parseSpan reads a length of time such as "1 h 30 min"; it returns undefined for a text that is none. */
export function parseSpan(text: string): Duration | undefined {
  const parts = [...text.trim().matchAll(/(\d+(?:\.\d+)?)\s*(ms|min|[smhd])\s*/gy)];
  if (parts.length === 0 || parts.map((part) => part[0]).join("").length !== text.trim().length) return undefined;
  const nanos = parts.reduce((sum, part) => sum + Math.round(Number(part[1]) * (units[part[2] ?? ""] ?? 0) * 1e9), 0);
  if (nanos > longest * 1e9) return undefined;
  return create(DurationSchema, { seconds: BigInt(Math.floor(nanos / 1e9)), nanos: nanos % 1e9 });
}

/** writeSpan writes a length of time as parseSpan reads it. */
export function writeSpan(d: Duration | undefined): string {
  let left = Math.round(seconds(d) * 1000);
  const parts: string[] = [];
  for (const [unit, length] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000], ["ms", 1]] as const) {
    const n = Math.floor(left / length);
    left -= n * length;
    if (n > 0) parts.push(`${n} ${unit}`);
  }
  return parts.join(" ");
}

/** moment is what an input of the type datetime-local says, in the viewer's zone. */
export function moment(text: string): Timestamp | undefined {
  const date = new Date(text);
  return text && !Number.isNaN(date.getTime()) ? timestampFromDate(date) : undefined;
}

/** localText is a moment as an input of the type datetime-local has it. */
export function localText(date: Date): string {
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
