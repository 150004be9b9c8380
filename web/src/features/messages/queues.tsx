import { useQuery } from "@connectrpc/connect-query";
import { useState } from "react";
import { Link, useLocation } from "wouter";
import { MessageService, type Queue } from "../../gen/plinth/message/v1/message_pb.js";
import { number, rate, t } from "../../i18n";
import { useQueues } from "../../rpc/every";
import { Field, Head, Panel, Status } from "../../ui/basic";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { pageOf, Table, Turns } from "../../ui/table";
import { PolicyEditor } from "./policy";

/** Queues is the list of queues. What is in each is asked for the rows that are shown. */
export default function Queues() {
  const [, go] = useLocation();
  const [filter, setFilter] = useFilter(["q", "new", "page"]);
  const query = useQueues();
  return (
    <div className="page">
      <Head title={t("nav.queues")}>
        <button className="primary" onClick={() => setFilter({ new: "1" })}>
          {t("queue.new")}
        </button>
      </Head>
      <div className="filters">
        <Field label={t("filter.name")}>
          <input type="search" value={filter.q} onChange={(e) => setFilter({ q: e.target.value, page: "" })} />
        </Field>
      </div>
      <Panel>
        <Loaded query={query}>
          {(data) => {
            const all = data.filter((q) => q.name.toLowerCase().includes(filter.q.toLowerCase()));
            const rows = pageOf(all, filter.page);
            if (data.length === 0) {
              return (
                <Empty title={t("queues.none")}>
                  <p>{t("queues.none.hint")}</p>
                </Empty>
              );
            }
            if (all.length === 0) return <Empty title={t("filter.none")} />;
            return (
              <>
                <Table
                  label={t("nav.queues")}
                  rows={rows}
                  id={(q) => q.name}
                  open={(q) => go(path(q.name))}
                  columns={[
                    { name: t("col.name"), cell: (q) => <Link href={path(q.name)}>{q.name}</Link> },
                    { name: t("col.state"), cell: (q) => <State queue={q} /> },
                    { name: t("queue.depth"), num: true, cell: (q) => <Now name={q.name} show={(now) => number(now.depth ?? 0n)} /> },
                    { name: t("queue.waiting"), num: true, cell: (q) => <Now name={q.name} show={(now) => number(now.waiting ?? 0n)} /> },
                    { name: t("queue.dead"), num: true, cell: (q) => <Dead name={q.name} /> },
                    { name: t("queue.published"), num: true, cell: (q) => <Now name={q.name} show={(now) => rate(now.rates?.published ?? 0)} /> },
                    { name: t("queue.delivered"), num: true, cell: (q) => <Now name={q.name} show={(now) => rate(now.rates?.delivered ?? 0)} /> },
                    { name: t("queue.acknowledged"), num: true, cell: (q) => <Now name={q.name} show={(now) => rate(now.rates?.acknowledged ?? 0)} /> },
                  ]}
                />
                <Turns count={all.length} page={filter.page} go={(page) => setFilter({ page })} />
              </>
            );
          }}
        </Loaded>
      </Panel>
      {filter.new && <PolicyEditor close={() => setFilter({ new: "" })} />}
    </div>
  );
}

export function path(queue: string, tab = ""): string {
  return `/queues/${encodeURIComponent(queue)}${tab && `/${tab}`}`;
}

function State({ queue }: { queue: Queue }) {
  return queue.paused ? <Status tone="warn">{t("queue.paused")}</Status> : <Status tone="good">{t("queue.open")}</Status>;
}

/** Queues differ in when they are asked again, so that not all ask at once. */
function useNowOf(name: string) {
  const [every] = useState(() => 8000 + Math.random() * 4000);
  return useQuery(MessageService.method.getQueue, { name }, { refetchInterval: every, staleTime: 5000 });
}

function Now({ name, show }: { name: string; show: (queue: Queue) => string }) {
  const { data, error } = useNowOf(name);
  return <>{data ? show(data) : error ? "–" : "…"}</>;
}

function Dead({ name }: { name: string }) {
  const { data } = useNowOf(name);
  const n = data?.deadLetters ?? 0n;
  if (n === 0n) return <>{data ? "0" : "…"}</>;
  return (
    <Link href={path(name, "dead")}>
      <Status tone="bad">{number(n)}</Status>
    </Link>
  );
}
