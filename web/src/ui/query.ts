import { useSearchParams } from "wouter";

/** useFilter keeps a filter in the query string, so that it can be linked to. */
export function useFilter<K extends string>(names: readonly K[]): [Record<K, string>, (change: Partial<Record<K, string>>) => void] {
  const [search, setSearch] = useSearchParams();
  const filter = Object.fromEntries(names.map((name) => [name, search.get(name) ?? ""])) as Record<K, string>;
  return [
    filter,
    (change) =>
      setSearch(
        (before) => {
          const to = new URLSearchParams(before);
          for (const [name, value] of Object.entries(change) as [string, string][]) {
            if (value) to.set(name, value);
            else to.delete(name);
          }
          return to;
        },
        { replace: true },
      ),
  ];
}
