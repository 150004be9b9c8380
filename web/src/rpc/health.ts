import { useQuery } from "@tanstack/react-query";

export interface Health {
  status: string;
  timestamp: string;
  checks: Record<string, string>;
}

/** useHealth asks for the health of the backends. It is a plain route, and an answer of 503 tells as much as one of 200. */
export function useHealth() {
  return useQuery({
    queryKey: ["health"],
    refetchInterval: 3000,
    retry: false,
    queryFn: async ({ signal }): Promise<Health> => {
      const res = await fetch("/health", { signal });
      return (await res.json()) as Health;
    },
  });
}
