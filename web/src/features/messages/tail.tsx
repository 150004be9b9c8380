import { createClient } from "@connectrpc/connect";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useEffect, useLayoutEffect, useRef, useState } from "react";
import { MessageService, MessageView, type QueuedMessage } from "../../gen/plinth/message/v1/message_pb.js";
import { t } from "../../i18n";
import { transport } from "../../rpc/session";
import { Panel, Status } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Glance } from "../../ui/payload";
import { Empty, Failure } from "../../ui/state";
import { One } from "./messages";

const client = createClient(MessageService, transport);

/** keyOf tells messages apart, and the attempts of one that comes again. */
const keyOf = (message: QueuedMessage) => `${message.id} ${message.attempts}`;

/** How many messages are kept on the page. */
const kept = 500;

/**
 * Tail shows messages as they come into the queue. It looks at the queue once a second, behind what it has seen, and takes nothing. It
 * stops while one reads further up, and goes on from there.
 */
export function Tail({ queue }: { queue: string }) {
  const [lines, setLines] = useState<QueuedMessage[]>([]);
  const [following, setFollowing] = useState(true);
  const [error, setError] = useState<unknown>(null);
  const [open, setOpen] = useState<QueuedMessage | null>(null);
  const token = useRef(""); // That of the last page that was seen.
  const seen = useRef(new Set<string>()); // What was on it.
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (!following) return;
    const stop = new AbortController();
    async function look() {
      let next = token.current;
      do {
        if (next !== token.current) seen.current.clear();
        token.current = next;
        const page = await client.listMessages({ queue, view: MessageView.READY, pageSize: 200, pageToken: next }, { signal: stop.signal });
        next = page.nextPageToken;
        const fresh = page.messages.filter((message) => !seen.current.has(keyOf(message)));
        for (const message of fresh) seen.current.add(keyOf(message));
        if (fresh.length > 0) {
          setLines((before) => {
            const keys = new Set(fresh.map(keyOf));
            return [...before.filter((message) => !keys.has(keyOf(message))), ...fresh].slice(-kept);
          });
        }
      } while (next);
    }
    async function follow() {
      while (!stop.signal.aborted) {
        try {
          if (!document.hidden) await look();
          setError(null);
        } catch (failure) {
          if (!stop.signal.aborted) setError(failure);
        }
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
    void follow();
    return () => stop.abort();
  }, [queue, following]);
  useLayoutEffect(() => {
    if (following && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, following]);

  function scrolled() {
    const b = box.current;
    if (b) setFollowing(b.scrollHeight - b.scrollTop - b.clientHeight < 8);
  }
  return (
    <Panel
      title={t("queue.tab.tail")}
      actions={
        <div className="row">
          <CopyAs method={MessageService.method.listMessages} input={() => ({ queue, pageToken: token.current })} />
          {following ? <Status tone="good">{t("tail.following")}</Status> : <Status tone="warn">{t("tail.paused")}</Status>}
          <button onClick={() => setFollowing(!following)}>{following ? t("queue.pause") : t("tail.go")}</button>
          <button onClick={() => setLines([])}>{t("tail.clear")}</button>
        </div>
      }
    >
      <div className="body">
        <p className="soft">{t("tail.what")}</p>
        {error !== null && <Failure error={error} />}
        {lines.length === 0 ? (
          <Empty title={t("tail.none")} />
        ) : (
          <div className="tail" role="log" aria-live="off" aria-label={t("queue.tab.tail")} tabIndex={0} ref={box} onScroll={scrolled}>
            {lines.map((message) => (
              <button key={keyOf(message)} className="link" onClick={() => setOpen(message)}>
                <span className="soft">{message.publishTime && timestampDate(message.publishTime).toLocaleTimeString()}</span>
                <Glance data={message.payload} />
              </button>
            ))}
          </div>
        )}
      </div>
      {open && <One message={open} close={() => setOpen(null)} />}
    </Panel>
  );
}
