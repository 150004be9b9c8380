import { useMutation, useQuery } from "@connectrpc/connect-query";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { Link, useLocation } from "wouter";
import { MessageService, type Queue as QueueMessage } from "../../gen/plinth/message/v1/message_pb.js";
import { number, span, t } from "../../i18n";
import { often } from "../../rpc/client";
import { useStatus } from "../../rpc/watch";
import { Fact, Head, Panel, Status, Time } from "../../ui/basic";
import { Chart } from "../../ui/chart";
import { CopyAs } from "../../ui/copy";
import { Destroy } from "../../ui/dialog";
import { seconds } from "../../ui/duration";
import { Empty, Loaded } from "../../ui/state";
import { tell, tellError } from "../../ui/toast";
import { DeadLetters } from "./dead-letters";
import { Messages } from "./messages";
import { Operations } from "./operations";
import { PolicyEditor } from "./policy";
import { Publish } from "./publish";
import { PushState } from "./push";
import { path } from "./queues";
import { Tail } from "./tail";
import { Waiting } from "./waiting";

/** Queue is one queue: what is in it, what failed, and its policy. */
export default function Queue({ name, tab: wanted }: { name: string; tab: string }) {
  const asked = useQuery(MessageService.method.getQueue, { name }, { refetchInterval: often });
  const query = { ...asked, data: useLatest(asked.data, asked.dataUpdatedAt, name) };
  const tabs = [
    ["overview", t("queue.tab.overview"), undefined],
    ["publish", t("queue.tab.publish"), undefined],
    ["messages", t("queue.tab.messages"), query.data?.depth],
    ["tail", t("queue.tab.tail"), undefined],
    ["waiting", t("queue.tab.waiting"), query.data?.waiting],
    ["dead", t("queue.tab.dead"), query.data?.deadLetters],
    ["operations", t("queue.tab.operations"), undefined],
  ] as const;
  const tab = tabs.some(([id]) => id === wanted) ? wanted : "overview";
  return (
    <div className="page">
      <Head title={name} crumbs={<Link href="/queues">{t("nav.queues")}</Link>}>
        {query.data && <Actions queue={query.data} />}
      </Head>
      <nav className="tabs" aria-label={name}>
        {tabs.map(([id, label, count]) => (
          <Link key={id} href={path(name, id === "overview" ? "" : id)} aria-current={tab === id ? "page" : undefined}>
            {label}
            {count !== undefined && <span className="count">{number(count)}</span>}
          </Link>
        ))}
      </nav>
      <Loaded query={query}>
        {(queue) => (
          <>
            {tab === "overview" && <Overview queue={queue} />}
            {tab === "publish" && <Publish queue={name} />}
            {tab === "messages" && <Messages queue={name} />}
            {tab === "tail" && <Tail queue={name} />}
            {tab === "waiting" && <Waiting queue={queue} />}
            {tab === "dead" && <DeadLetters queue={name} />}
            {tab === "operations" && <Operations queue={name} />}
          </>
        )}
      </Loaded>
    </div>
  );
}

/** useLatest is a queue with the numbers of its stream of readings, where those are later than what was asked for. */
function useLatest(queue: QueueMessage | undefined, askedAt: number, name: string): QueueMessage | undefined {
  const latest = useStatus(name);
  return useMemo(() => {
    if (!queue || !latest || latest.at < askedAt) return queue;
    const { depth, waiting, deadLetters, rates, paused } = latest.status;
    return { ...queue, depth, waiting, deadLetters, paused, ...(rates ? { rates } : {}) };
  }, [queue, askedAt, latest]);
}

function Actions({ queue }: { queue: QueueMessage }) {
  const [, go] = useLocation();
  const client = useQueryClient();
  const [asked, setAsked] = useState<"edit" | "purge" | "delete" | null>(null);
  const pause = useMutation(MessageService.method.pauseQueue);
  const resume = useMutation(MessageService.method.resumeQueue);
  const purge = useMutation(MessageService.method.purgeQueue);
  const remove = useMutation(MessageService.method.deleteQueue);
  const name = queue.name;
  const close = () => setAsked(null);

  async function toggle() {
    try {
      await (queue.paused ? resume : pause).mutateAsync({ name });
      await client.invalidateQueries();
      tell(t(queue.paused ? "queue.resumed.done" : "queue.paused.done", { name }));
    } catch (error) {
      tellError(error);
    }
  }

  return (
    <div className="row">
      {queue.paused ? (
        <CopyAs method={MessageService.method.resumeQueue} input={() => ({ name })} />
      ) : (
        <CopyAs method={MessageService.method.pauseQueue} input={() => ({ name })} />
      )}
      <button onClick={() => void toggle()}>{queue.paused ? t("queue.resume") : t("queue.pause")}</button>
      <button onClick={() => setAsked("edit")}>{t("queue.policy.edit")}</button>
      <button className="danger" onClick={() => setAsked("purge")}>
        {t("queue.purge")}
      </button>
      <button className="danger" onClick={() => setAsked("delete")}>
        {t("action.delete")}
      </button>
      {asked === "edit" && <PolicyEditor queue={queue} close={close} />}
      {asked === "purge" && (
        <Destroy
          title={t("queue.purge.title", { name })}
          name={name}
          typed
          action={t("queue.purge")}
          close={close}
          extra={<CopyAs method={MessageService.method.purgeQueue} input={() => ({ name })} />}
          submit={async () => {
            const { purged } = await purge.mutateAsync({ name });
            await client.invalidateQueries();
            tell(t("queue.purged", { n: purged }));
          }}
        >
          {t("queue.purge.what", { depth: queue.depth ?? 0n, waiting: queue.waiting ?? 0n })}
        </Destroy>
      )}
      {asked === "delete" && (
        <Destroy
          title={t("queue.delete.title", { name })}
          name={name}
          typed
          action={t("action.delete")}
          close={close}
          extra={<CopyAs method={MessageService.method.deleteQueue} input={() => ({ name })} />}
          submit={async () => {
            await remove.mutateAsync({ name });
            tell(t("queue.deleted", { name }));
            go("/queues");
            await client.invalidateQueries();
          }}
        >
          {t("queue.delete.what", { depth: queue.depth ?? 0n, waiting: queue.waiting ?? 0n, dead: queue.deadLetters ?? 0n })}
        </Destroy>
      )}
    </div>
  );
}

/** useRates remembers the rates since the page was opened. */
function useRates(queue: QueueMessage) {
  const [history, setHistory] = useState<number[][]>([]);
  useEffect(() => {
    const r = queue.rates;
    setHistory((before) => [...before.slice(-59), [r?.published ?? 0, r?.delivered ?? 0, r?.acknowledged ?? 0]]);
  }, [queue]);
  return [t("queue.published"), t("queue.delivered"), t("queue.acknowledged")].map((name, i) => ({
    name,
    values: history.map((at) => at[i] ?? 0),
  }));
}

function Overview({ queue }: { queue: QueueMessage }) {
  const lines = useRates(queue);
  const policy: [string, string][] = [
    [t("queue.maxAttempts"), number(queue.maxAttempts)],
    [t("queue.backoff"), `${span(seconds(queue.minBackoff))} – ${span(seconds(queue.maxBackoff))}`],
    [t("queue.ttl"), queue.messageTtl && seconds(queue.messageTtl) > 0 ? span(seconds(queue.messageTtl)) : t("none")],
    [t("queue.maxLength"), queue.maxLength > 0n ? number(queue.maxLength) : t("none")],
    [t("queue.retention"), span(seconds(queue.deadLetterRetention))],
  ];
  return (
    <>
      <dl className="facts">
        <Fact name={t("col.state")} small>
          {queue.paused ? <Status tone="warn">{t("queue.paused")}</Status> : <Status tone="good">{t("queue.open")}</Status>}
        </Fact>
        <Fact name={t("queue.depth")}>{number(queue.depth ?? 0n)}</Fact>
        <Fact name={t("queue.waiting")}>{number(queue.waiting ?? 0n)}</Fact>
        <Fact name={t("queue.dead")}>
          {(queue.deadLetters ?? 0n) > 0n ? <Link href={path(queue.name, "dead")}>{number(queue.deadLetters ?? 0n)}</Link> : "0"}
        </Fact>
        <Fact name={t("col.created")} small>
          <Time at={queue.createTime} />
        </Fact>
      </dl>
      <div className="columns">
        <Panel title={t("queue.rates")}>
          <div className="body">
            <Chart label={t("queue.rates")} lines={lines} />
          </div>
        </Panel>
        <Panel title={t("queue.policy")}>
          <div className="body">
            <dl className="pairs">
              {policy.map(([name, value]) => (
                <div key={name} className="contents">
                  <dt>{name}</dt>
                  <dd>{value}</dd>
                </div>
              ))}
            </dl>
          </div>
        </Panel>
        <PushState queue={queue} />
        <Panel title={t("queue.bindings")}>
          {queue.bindings.length === 0 ? (
            <Empty title={t("queue.bindings.none")}>
              <p>{t("queue.bindings.none.hint")}</p>
            </Empty>
          ) : (
            <ul className="list">
              {queue.bindings.map((b) => (
                <li key={`${b.topic} ${b.pattern}`}>
                  <code>{b.topic}</code> <span className="soft">→</span> <code>{b.pattern}</code>
                </li>
              ))}
            </ul>
          )}
        </Panel>
      </div>
    </>
  );
}
