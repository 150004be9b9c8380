import { QueryCache, QueryClient } from "@tanstack/react-query";
import { Code, ConnectError } from "@connectrpc/connect";

/** retryable reports whether the same call may succeed soon. */
function retryable(error: unknown): boolean {
  return [Code.Unavailable, Code.DeadlineExceeded, Code.Aborted, Code.Unknown].includes(ConnectError.from(error).code);
}

/** How often pages ask again. What failed is asked for often, so that a page recovers soon. */
export const often = 5_000;
export const seldom = (query: { state: { status: string } }) => (query.state.status === "error" ? often : 20_000);

/** queryClient keeps what was read. What failed and may succeed soon is asked for again by every query, while it is shown. */
export const queryClient = new QueryClient({
  queryCache: new QueryCache(),
  defaultOptions: {
    queries: {
      staleTime: 2_000,
      networkMode: "always",
      refetchOnWindowFocus: true,
      retry: (count, error) => count < 2 && retryable(error),
      retryDelay: (count) => 300 * 2 ** count,
      refetchInterval: ({ state }) => (state.error && retryable(state.error) ? often : false),
    },
    mutations: { networkMode: "always", retry: false },
  },
});
