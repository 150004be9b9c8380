import type { ReactNode } from "react";
import type { Key } from "../i18n";

export interface Place {
  path: string;
  name: Key;
  /** Follows a g on the keyboard. */
  key: string;
  admin?: boolean;
}

/** places are the pages that lead to all others. */
export const places: Place[] = [
  { path: "/", name: "nav.overview", key: "o" },
  { path: "/queues", name: "nav.queues", key: "q" },
  { path: "/schedules", name: "nav.schedules", key: "s" },
  { path: "/files", name: "nav.files", key: "f" },
  { path: "/channels", name: "nav.channels", key: "n" },
  { path: "/cache", name: "nav.cache", key: "c" },
  { path: "/locks", name: "nav.locks", key: "l" },
  { path: "/tenants", name: "nav.tenants", key: "t", admin: true },
];

export function isHere(place: string, path: string): boolean {
  return place === "/" ? path === "/" : path === place || path.startsWith(`${place}/`);
}

export function Mark(): ReactNode {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <path fill="currentColor" d="M4 4h24v5H4zM9 11h14v10H9zM4 23h24v5H4z" />
    </svg>
  );
}
