import { useSyncExternalStore } from "react";
import { siteStorage } from "../storage";

export type Theme = "system" | "light" | "dark";

const item = "plinth.theme";
const listeners = new Set<() => void>();

export function theme(): Theme {
  const chosen = siteStorage.getItem(item);
  return chosen === "light" || chosen === "dark" ? chosen : "system";
}

/** setTheme has the pages light or dark from now on, or as the system has it. */
export function setTheme(to: Theme) {
  siteStorage.setItem(item, to);
  applyTheme();
  for (const listener of listeners) listener();
}

export function applyTheme() {
  if (theme() === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme();
}

export function useTheme(): Theme {
  return useSyncExternalStore((listener) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, theme);
}
