import { useEffect, useState, type ReactNode } from "react";
import { t } from "../i18n";
import { typing } from "./keys";

export interface Column<R> {
  name: string;
  num?: boolean;
  wideOnly?: boolean;
  cell: (row: R) => ReactNode;
}

export interface Selection {
  ids: ReadonlySet<string>;
  set: (ids: ReadonlySet<string>) => void;
}

/** Table is a list in columns. j and k move in it, Enter opens a row, x selects it. */
export function Table<R>({
  label,
  columns,
  rows,
  id,
  open,
  selection,
  nameOf,
}: {
  label: string;
  columns: Column<R>[];
  rows: R[];
  id: (row: R) => string;
  open?: (row: R) => void;
  selection?: Selection;
  nameOf?: (row: R) => string;
}) {
  const [current, setCurrent] = useState<string | null>(null);
  useEffect(() => {
    function onKey(e: KeyboardEvent) {
      if (typing(e)) return;
      const at = rows.findIndex((row) => id(row) === current);
      const row = rows[at];
      if (e.key === "j" || e.key === "k") {
        const to = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + (e.key === "j" ? 1 : -1)))];
        if (to) setCurrent(id(to));
      } else if (e.key === "Enter" && row && open && e.target === document.body) {
        open(row);
      } else if (e.key === "x" && row && selection) {
        toggle(selection, id(row));
      } else {
        return;
      }
      e.preventDefault();
    }
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  });
  useEffect(() => {
    if (current !== null) document.querySelector("tr[data-current]")?.scrollIntoView({ block: "nearest" });
  }, [current]);

  const all = rows.length > 0 && selection !== undefined && rows.every((row) => selection.ids.has(id(row)));
  return (
    <div className="scroll" role="region" aria-label={label} tabIndex={0}>
      <table>
        <thead>
          <tr>
            {selection && (
              <th className="check" scope="col">
                <input
                  type="checkbox"
                  aria-label={t("table.all")}
                  checked={all}
                  onChange={() => selection.set(all ? new Set() : new Set(rows.map(id)))}
                />
              </th>
            )}
            {columns.map((column) => (
              <th key={column.name} scope="col" className={classes(column)}>
                {column.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={id(row)} data-current={id(row) === current ? "" : undefined}>
              {selection && (
                <td className="check">
                  <input
                    type="checkbox"
                    aria-label={t("table.one", { name: nameOf ? nameOf(row) : id(row) })}
                    checked={selection.ids.has(id(row))}
                    onChange={() => toggle(selection, id(row))}
                  />
                </td>
              )}
              {columns.map((column) => (
                <td key={column.name} className={classes(column)}>
                  {column.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function classes(column: { num?: boolean; wideOnly?: boolean }): string | undefined {
  return [column.num && "num", column.wideOnly && "wide-only"].filter(Boolean).join(" ") || undefined;
}

function toggle(selection: Selection, id: string) {
  const ids = new Set(selection.ids);
  if (!ids.delete(id)) ids.add(id);
  selection.set(ids);
}

/** How many rows of a list that is here as a whole are shown at a time. */
const shown = 50;

/** numberOf is the number of a page, from 1: the last one for one that is not there, as after rows have gone. */
function numberOf(page: string, count: number): number {
  return Math.min(Math.max(1, Math.floor(Number(page)) || 1), Math.max(1, Math.ceil(count / shown)));
}

/** pageOf is a page of a list that is here as a whole. */
export function pageOf<R>(rows: R[], page: string): R[] {
  const n = numberOf(page, rows.length);
  return rows.slice((n - 1) * shown, n * shown);
}

/** Turns goes through a list that is here as a whole. */
export function Turns({ count, page, go }: { count: number; page: string; go: (page: string) => void }) {
  const n = numberOf(page, count);
  if (count <= shown) return null;
  return (
    <div className="row">
      <button disabled={n === 1} onClick={() => go(n === 2 ? "" : String(n - 1))}>
        {t("page.before")}
      </button>
      <span className="soft">{t("page.of", { n, all: Math.max(1, Math.ceil(count / shown)) })}</span>
      <button disabled={n * shown >= count} onClick={() => go(String(n + 1))}>
        {t("page.next")}
      </button>
    </div>
  );
}

/** Pager goes through a list page by page. Tokens of the pages that were seen lead back. */
export function Pager({ token, next, go }: { token: string[]; next: string; go: (tokens: string[]) => void }) {
  if (token.length === 0 && !next) return null;
  return (
    <div className="row">
      <button disabled={token.length === 0} onClick={() => go(token.slice(0, -1))}>
        {t("page.before")}
      </button>
      <span className="soft">{t("page.number", { n: token.length + 1 })}</span>
      <button disabled={!next} onClick={() => go([...token, next])}>
        {t("page.next")}
      </button>
    </div>
  );
}
