import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useId, useSyncExternalStore, type ReactElement, type ReactNode, cloneElement } from "react";
import { exact, relative } from "../i18n";
import { serverNow } from "../rpc/clock";

export type Tone = "good" | "warn" | "bad" | "busy" | "calm";

/** Status is a colour, a dot and a word. */
export function Status({ tone, children }: { tone: Tone; children: ReactNode }) {
  return <span className={`status ${tone}`}>{children}</span>;
}

export function Panel({ title, actions, children }: { title?: string; actions?: ReactNode; children: ReactNode }) {
  return (
    <div className="panel">
      {title !== undefined && (
        <header>
          <h2>{title}</h2>
          {actions}
        </header>
      )}
      {children}
    </div>
  );
}

export function Head({ title, crumbs, children }: { title: ReactNode; crumbs?: ReactNode; children?: ReactNode }) {
  return (
    <div className="head">
      <div className="grow">
        {crumbs && <div className="crumbs">{crumbs}</div>}
        <h1>{title}</h1>
      </div>
      {children}
    </div>
  );
}

export function Fact({ name, small, children }: { name: string; small?: boolean; children: ReactNode }) {
  return (
    <div className={small ? "fact small" : "fact"}>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** Field labels a control, and tells what is allowed in it. */
export function Field({
  label,
  hint,
  wrong,
  wide,
  children,
}: {
  label: string;
  hint?: ReactNode;
  wrong?: string | undefined;
  wide?: boolean;
  children: ReactElement<{ id?: string; "aria-describedby"?: string; "aria-invalid"?: boolean }>;
}) {
  const id = useId();
  const described = hint || wrong ? { "aria-describedby": `${id}-hint` } : {};
  return (
    <div className={wide ? "field wide" : "field"}>
      <label htmlFor={id}>{label}</label>
      {cloneElement(children, { id, ...described, ...(wrong ? { "aria-invalid": true } : {}) })}
      {(hint || wrong) && (
        <div id={`${id}-hint`} className={wrong ? "wrong" : "hint"}>
          {wrong ?? hint}
        </div>
      )}
    </div>
  );
}

export function Check({ label, checked, onChange, disabled }: { label: string; checked: boolean; onChange: (to: boolean) => void; disabled?: boolean }) {
  return (
    <label className="check-field">
      <input type="checkbox" checked={checked} disabled={disabled} onChange={(e) => onChange(e.target.checked)} />
      {label}
    </label>
  );
}

/** One clock for all times of the page. */
let now = serverNow();
const ticking = new Set<() => void>();
setInterval(() => {
  if (document.hidden) return;
  now = serverNow();
  for (const tick of ticking) tick();
}, 1000);

export function useNow(): number {
  return useSyncExternalStore(
    (tick) => {
      ticking.add(tick);
      return () => ticking.delete(tick);
    },
    () => now,
  );
}

/** Time is how long ago a moment was; the moment itself is its title. */
export function Time({ at }: { at: Timestamp | Date | undefined }) {
  const current = useNow();
  if (!at) return <span className="soft">–</span>;
  const date = at instanceof Date ? at : timestampDate(at);
  return (
    <time dateTime={date.toISOString()} title={exact(date)}>
      {relative(date, current)}
    </time>
  );
}

/** Exact is a moment in full, in a zone. */
export function Exact({ at, zone = "" }: { at: Timestamp | Date; zone?: string }) {
  const date = at instanceof Date ? at : timestampDate(at);
  return <time dateTime={date.toISOString()}>{exact(date, zone)}</time>;
}
