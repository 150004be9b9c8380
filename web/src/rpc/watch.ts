import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { useEffect, useState } from "react";
import { MessageService, QueueStatusSchema, type QueueStatus } from "../gen/plinth/message/v1/message_pb.js";
import { keyNow, noteRefusal, transport, useSession } from "./session";

const client = createClient(MessageService, transport);

/** streams has a stream opened, and opened again after a pause whenever it ends, until it is stopped or cannot go on. */
export async function streams(stop: AbortSignal, open: () => Promise<void>) {
  for (let pause = 500; !stop.aborted; pause = Math.min(pause * 2, 10_000)) {
    const begun = Date.now();
    const key = keyNow();
    try {
      await open();
    } catch (error) {
      const { code } = ConnectError.from(error);
      if (stop.aborted) return;
      if (code === Code.Unauthenticated) {
        if (noteRefusal(key)) return;
        continue; // The key was renewed meanwhile.
      }
      if ([Code.NotFound, Code.PermissionDenied, Code.InvalidArgument].includes(code)) throw error;
    }
    if (Date.now() - begun > 10_000) pause = 500;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** nameOf is the same in all tabs of a browser that may see the same, and tells nobody who it is. It is empty where tabs cannot share. */
async function nameOf(who: string, tenant: string, queue: string): Promise<string> {
  if (!navigator.locks || !crypto.subtle || !window.BroadcastChannel) return ""; // The page is not from a secure origin.
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${who}\n${tenant}\n${queue}`));
  return `plinth.watch.${[...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * watch reports the status of a queue about once a second. However many tabs watch it, the browser has one stream: a browser may have
 * no more than six connections to a server that speaks HTTP/1.1. The tab that has the lock has the stream, and tells the others;
 * when it is closed, another one gets the lock.
 */
async function watch(who: string, tenant: string, queue: string, stop: AbortSignal, report: (status: QueueStatus) => void) {
  const name = await nameOf(who, tenant, queue);
  if (stop.aborted) return;
  const channel = name ? new BroadcastChannel(name) : undefined;
  const lead = () =>
    streams(stop, async () => {
      for await (const status of client.watchQueue({ name: queue }, { signal: stop, timeoutMs: 0 })) {
        channel?.postMessage(toBinary(QueueStatusSchema, status));
        report(status);
      }
    });
  if (!channel) return lead();
  stop.addEventListener("abort", () => channel.close());
  channel.onmessage = (e: MessageEvent<Uint8Array>) => report(fromBinary(QueueStatusSchema, e.data));
  await navigator.locks.request(name, { signal: stop }, lead);
}

/** useStatus is the latest status of a queue, with when it came here. */
export function useStatus(queue: string): { status: QueueStatus; at: number } | undefined {
  const { who, tenant } = useSession();
  const [latest, setLatest] = useState<{ status: QueueStatus; at: number }>();
  useEffect(() => {
    const stop = new AbortController();
    setLatest(undefined);
    watch(who, tenant, queue, stop.signal, (status) => stop.signal.aborted || setLatest({ status, at: Date.now() })).catch(() => {
      // The page asks for the queue, too, and tells what is wrong.
    });
    return () => stop.abort();
  }, [who, tenant, queue]);
  return latest;
}
