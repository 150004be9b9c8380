import { useMemo, useState } from "react";
import { bytes as size, t } from "../i18n";
import { CopyButton } from "./copy";

type View = "json" | "text" | "hex";

/** How much of a payload is shown unless more is asked for. */
const shown = 64 << 10;

/** decode returns the text of bytes that are UTF-8, and undefined of others. */
export function decode(data: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    return undefined;
  }
}

function pretty(text: string | undefined): string | undefined {
  if (text === undefined || !/^\s*[[{"]/.test(text)) return undefined;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return undefined;
  }
}

function hex(data: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < data.length; at += 16) {
    const part = [...data.subarray(at, at + 16)];
    const digits = part.map((b) => b.toString(16).padStart(2, "0")).join(" ");
    const letters = part.map((b) => (b > 31 && b < 127 ? String.fromCharCode(b) : ".")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${digits.padEnd(47)}  ${letters}`);
  }
  return lines.join("\n");
}

/** Payload shows bytes as JSON, text or hex, whatever is in them, and finds text in them. */
export function Payload({ data }: { data: Uint8Array }) {
  const text = useMemo(() => decode(data), [data]);
  const json = useMemo(() => pretty(text), [text]);
  const [chosen, setChosen] = useState<View | null>(null);
  const [search, setSearch] = useState("");
  const [whole, setWhole] = useState(false);
  const view = chosen ?? (json !== undefined ? "json" : text !== undefined ? "text" : "hex");
  const full = useMemo(
    () => (view === "hex" ? hex(whole ? data : data.subarray(0, shown)) : ((view === "json" ? json : text) ?? "")),
    [view, whole, data, json, text],
  );
  const cut = !whole && (view === "hex" ? data.length > shown : full.length > shown);
  const [parts, found] = useMemo(() => mark(cut ? full.slice(0, shown * 5) : full, search), [full, cut, search]);
  return (
    <div className="stack">
      <div className="row">
        {(["json", "text", "hex"] as const).map((name) => (
          <button
            key={name}
            type="button"
            className="quiet"
            aria-pressed={view === name}
            disabled={(name === "json" && json === undefined) || (name === "text" && text === undefined)}
            onClick={() => setChosen(name)}
          >
            {view === name ? <strong>{t(`payload.${name}`)}</strong> : t(`payload.${name}`)}
          </button>
        ))}
        <input type="search" aria-label={t("payload.search")} placeholder={t("payload.search")} value={search} onChange={(e) => setSearch(e.target.value)} />
        {search && <span className="soft">{t("payload.found", { n: found })}</span>}
        <span className="soft">{size(data.length)}</span>
        <CopyButton text={view === "hex" ? hex(data) : full} />
      </div>
      {data.length === 0 ? (
        <div className="soft">{t("payload.empty")}</div>
      ) : (
        <pre className={view === "hex" ? "payload hex" : "payload"} tabIndex={0} aria-label={t("payload")} role="region">
          {cut && !search ? full.slice(0, view === "hex" ? full.length : shown) : parts}
        </pre>
      )}
      {cut && (
        <div className="row">
          <span className="soft">{t("payload.cut", { size: size(shown) })}</span>
          <button type="button" onClick={() => setWhole(true)}>
            {t("payload.whole")}
          </button>
        </div>
      )}
    </div>
  );
}

/** mark returns a text with what was found in it marked, and how often it was found. */
function mark(text: string, search: string): [React.ReactNode[], number] {
  if (!search) return [[text], 0];
  const low = text.toLowerCase();
  const wanted = search.toLowerCase();
  const parts: React.ReactNode[] = [];
  let from = 0;
  let found = 0;
  // Some letters change their length with their case; then nothing can be marked where it stands.
  if (low.length === text.length) {
    for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
      found++;
      if (found <= 500) {
        parts.push(text.slice(from, at), <mark key={at}>{text.slice(at, at + wanted.length)}</mark>);
      } else {
        parts.push(text.slice(from, at + wanted.length));
      }
      from = at + wanted.length;
    }
  }
  parts.push(text.slice(from));
  return [parts, found];
}

/** Attributes are the strings beside a payload. */
export function Attributes({ of }: { of: Record<string, string> }) {
  const names = Object.keys(of).sort();
  if (names.length === 0) return <span className="soft">{t("attributes.none")}</span>;
  return (
    <dl className="pairs">
      {names.map((name) => (
        <div key={name} className="contents">
          <dt className="mono text">{name}</dt>
          <dd className="mono text">{of[name]}</dd>
        </div>
      ))}
    </dl>
  );
}

/** Glance is the beginning of a payload, on one line. */
export function Glance({ data }: { data: Uint8Array }) {
  const text = decode(data.subarray(0, 200)) ?? decode(data.subarray(0, 197));
  if (text === undefined) return <span className="soft">{t("payload.binary")}</span>;
  return text ? <span className="clip mono">{text.slice(0, 120)}</span> : <span className="soft">{t("payload.empty")}</span>;
}
