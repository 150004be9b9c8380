import { createClient } from "@connectrpc/connect";
import { useQuery } from "@tanstack/react-query";
import { LockService } from "../gen/plinth/lock/v1/lock_pb.js";
import { MessageService } from "../gen/plinth/message/v1/message_pb.js";
import { ScheduleService } from "../gen/plinth/schedule/v1/schedule_pb.js";
import { TenantService } from "../gen/plinth/tenant/v1/tenant_pb.js";
import { often, seldom } from "./client";
import { transport } from "./session";

const clients = {
  queues: createClient(MessageService, transport),
  schedules: createClient(ScheduleService, transport),
  locks: createClient(LockService, transport),
  tenants: createClient(TenantService, transport),
};

interface Page {
  nextPageToken: string;
}

/** useEvery asks for a list, all pages of it: a filter that is applied here would miss what is on the others. */
function useEvery<P extends Page, I>(
  name: string,
  list: (request: { pageSize: number; pageToken: string }, options: { signal: AbortSignal }) => Promise<P>,
  items: (page: P) => I[],
  options: { refetchInterval?: typeof seldom | number; staleTime?: number; enabled?: boolean },
) {
  return useQuery({
    ...options,
    queryKey: ["every", name],
    queryFn: async ({ signal }) => {
      const all: I[] = [];
      let pageToken = "";
      do {
        const page = await list({ pageSize: 1000, pageToken }, { signal });
        all.push(...items(page));
        pageToken = page.nextPageToken;
      } while (pageToken);
      return all;
    },
  });
}

/** How a list is asked for that is only searched, as the palette does. */
const searched = { staleTime: 60_000 };

export function useQueues(search = false) {
  return useEvery("queues", clients.queues.listQueues, (page) => page.queues, search ? searched : { refetchInterval: seldom });
}

export function useSchedules(search = false) {
  return useEvery("schedules", clients.schedules.list, (page) => page.schedules, search ? searched : { refetchInterval: often });
}

export function useLocks() {
  return useEvery("locks", clients.locks.list, (page) => page.locks, { refetchInterval: often });
}

export function useTenants(enabled = true) {
  return useEvery("tenants", clients.tenants.listTenants, (page) => page.tenants, { refetchInterval: seldom, enabled });
}
