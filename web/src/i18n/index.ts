import { useSyncExternalStore } from "react";
import { en } from "./en";
import { siteStorage } from "../storage";

export type Key = keyof typeof en;
export type Dictionary = Record<Key, string>;
export type Language = "en" | "zh";

const item = "plinth.language";
let language: Language = "en";
let dictionary: Dictionary = en;
const listeners = new Set<() => void>();

/** speak has all texts in a language from now on. Chinese is loaded only where it is wanted. */
export async function speak(to: Language) {
  dictionary = to === "zh" ? (await import("./zh")).zh : en;
  language = to;
  siteStorage.setItem(item, to);
  document.documentElement.lang = to === "zh" ? "zh-CN" : "en";
  formats.clear();
  for (const listener of listeners) listener();
}

/** preferred is the language that was chosen before, or else the browser's. */
export function preferred(): Language {
  const chosen = siteStorage.getItem(item);
  if (chosen === "en" || chosen === "zh") return chosen;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export function useLanguage(): Language {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => language,
  );
}

/**
 * t returns a text. `{name}` is replaced by a value, a number as the language writes it; `{name|one|other}` by the first text if the
 * number is 1, and else by the second.
 */
export function t(key: Key, values: Record<string, string | number | bigint> = {}): string {
  return dictionary[key].replace(/\{(\w+)(?:\|([^|}]*)\|([^}]*))?\}/g, (_, name: string, one?: string, other?: string) => {
    const value = values[name] ?? "";
    if (one !== undefined && other !== undefined) return Number(value) === 1 ? one : other;
    return typeof value === "string" ? value : number(value);
  });
}

const formats = new Map<string, unknown>();

function format<F>(name: string, make: (locale: string) => F): F {
  let f = formats.get(name) as F | undefined;
  if (f === undefined) formats.set(name, (f = make(language === "zh" ? "zh-CN" : "en")));
  return f;
}

export function number(n: number | bigint): string {
  return format("number", (l) => new Intl.NumberFormat(l, { maximumFractionDigits: 2 })).format(n);
}

export function rate(n: number): string {
  return format("rate", (l) => new Intl.NumberFormat(l, { minimumFractionDigits: 1, maximumFractionDigits: 1 })).format(n);
}

export function bytes(n: bigint | number): string {
  let value = Number(n);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${number(unit === "B" ? value : Math.round(value * 10) / 10)} ${unit}`;
    value /= 1024;
  }
  return `${number(Math.round(value * 10) / 10)} TiB`;
}

/** exact is a moment in full; zone is an IANA name, and empty is the viewer's. */
export function exact(time: Date, zone = ""): string {
  return format(
    `exact ${zone}`,
    (l) =>
      new Intl.DateTimeFormat(l, {
        dateStyle: "medium",
        timeStyle: "medium",
        ...(zone ? { timeZone: zone } : {}),
      }),
  ).format(time);
}

const spans: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

/** relative is how long a moment is away from now. */
export function relative(time: Date, now: number): string {
  const seconds = Math.round((time.getTime() - now) / 1000);
  const [unit, length] = spans.find(([, l]) => Math.abs(seconds) >= l) ?? ["second", 1];
  return format("relative", (l) => new Intl.RelativeTimeFormat(l, { numeric: "auto", style: "short" })).format(
    Math.trunc(seconds / length),
    unit,
  );
}

/** span is a length of time, in its two largest units. */
export function span(seconds: number): string {
  if (seconds > 0 && seconds < 1) return `${number(Math.round(seconds * 1000))} ms`;
  const parts: string[] = [];
  let left = Math.round(seconds);
  for (const [unit, length] of [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]] as const) {
    const n = Math.floor(left / length);
    left -= n * length;
    if (n > 0) parts.push(`${number(n)} ${unit}`);
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}
