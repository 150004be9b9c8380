import { useLocation, useSearch } from "wouter";

/**
 * useFilter keeps a filter in the query string, so that it can be linked to. What is set in it is a step that one can go back from; going on
 * to write it, and clearing it, are none.
 */
export function useFilter<K extends string>(names: readonly K[]): [Record<K, string>, (change: Partial<Record<K, string>>) => void] {
  useSearch(); // It has the page follow the address. What it returns is decoded once too often for a value with % in it.
  const [, go] = useLocation();
  const search = new URLSearchParams(location.search);
  const filter = Object.fromEntries(names.map((name) => [name, search.get(name) ?? ""])) as Record<K, string>;
  return [
    filter,
    (change) => {
      const to = new URLSearchParams(location.search);
      const changes = Object.entries(change) as [K, string][];
      for (const [name, value] of changes) {
        if (value) to.set(name, value);
        else to.delete(name);
      }
      const query = to.size > 0 ? `?${to}` : "";
      go(location.pathname + query, { replace: !changes.some(([name, value]) => value && !filter[name]) });
    },
  ];
}
