import { createQueryOptions, useQuery, useTransport } from "@connectrpc/connect-query";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useQueries } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { Link } from "wouter";
import { MessageService, type Queue } from "../../gen/plinth/message/v1/message_pb.js";
import { ScheduleService, type Schedule } from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { TenantService } from "../../gen/plinth/tenant/v1/tenant_pb.js";
import { number, t } from "../../i18n";
import { seldom } from "../../rpc/client";
import { serverNow } from "../../rpc/clock";
import { useHealth } from "../../rpc/health";
import { useSession } from "../../rpc/session";
import { Fact, Head, Panel, Status, Time, type Tone } from "../../ui/basic";
import { Chart } from "../../ui/chart";
import { Empty, Failure, Waiting } from "../../ui/state";

/** How many queues are looked at: each is a call. */
const looked = 100;

/** Overview is what needs attention first, each with a link to where it is mended, and how the whole does. */
export default function Overview() {
  const transport = useTransport();
  const list = useQuery(MessageService.method.listQueues, { pageSize: looked }, { refetchInterval: seldom });
  const { queues, asked } = useQueries({
    queries: (list.data?.queues ?? []).map(({ name }) => ({
      ...createQueryOptions(MessageService.method.getQueue, { name }, { transport }),
      refetchInterval: 10_000,
    })),
    combine: (results) => ({
      queues: results.flatMap((result) => (result.data ? [result.data] : [])),
      asked: results.every((result) => !result.isPending),
    }),
  });
  const schedules = useQuery(ScheduleService.method.list, { pageSize: 1000 }, { refetchInterval: seldom });
  const upcoming = useQuery(ScheduleService.method.listUpcoming, { pageSize: 100 }, { refetchInterval: seldom });
  // The next run of each schedule: one that fires every second would hide all others.
  const next = [...new Map([...(upcoming.data?.upcoming ?? [])].reverse().map((run) => [run.schedule, run])).values()].reverse().slice(0, 8);
  const known = !list.isPending && asked;
  const history = useHistory(queues, known);
  const sum = (value: (q: Queue) => bigint) => (known ? number(queues.reduce((all, q) => all + value(q), 0n)) : "…");

  return (
    <div className="page">
      <Head title={t("nav.overview")} />
      <Backends />
      <Attention
        queues={queues}
        schedules={schedules.data?.schedules ?? []}
        known={!known || schedules.isPending ? "not yet" : list.data && schedules.data ? "all" : "in part"}
      />
      <dl className="facts">
        <Fact name={t("nav.queues")}>
          <Link href="/queues">
            {number(list.data?.queues.length ?? 0)}
            {list.data?.nextPageToken ? "+" : ""}
          </Link>
        </Fact>
        <Fact name={t("queue.depth")}>{sum((q) => q.depth ?? 0n)}</Fact>
        <Fact name={t("queue.waiting")}>{sum((q) => q.waiting ?? 0n)}</Fact>
        <Fact name={t("queue.dead")}>{sum((q) => q.deadLetters ?? 0n)}</Fact>
        <Fact name={t("nav.schedules")}>
          <Link href="/schedules">
            {number(schedules.data?.schedules.length ?? 0)}
            {schedules.data?.nextPageToken ? "+" : ""}
          </Link>
        </Fact>
      </dl>
      {list.error && <Failure error={list.error} retry={list.refetch} />}
      <div className="columns">
        <Panel title={t("overview.rates")}>
          <div className="body">
            <Chart label={t("overview.rates")} lines={history} />
            {list.data?.nextPageToken && <p className="soft">{t("overview.first", { n: looked })}</p>}
          </div>
        </Panel>
        <Panel title={t("overview.next")} actions={<Link href="/schedules">{t("overview.allSchedules")}</Link>}>
          {upcoming.error ? (
            <Failure error={upcoming.error} retry={upcoming.refetch} />
          ) : next.length > 0 ? (
            <ul className="list">
              {next.map((run) => (
                <li key={run.schedule}>
                  <span className="grow">
                    <Link href={`/schedules/${encodeURIComponent(run.schedule)}`}>{run.schedule}</Link>
                  </span>
                  <Time at={run.fireTime} />
                </li>
              ))}
            </ul>
          ) : (
            <Empty title={t("overview.next.none")} />
          )}
        </Panel>
      </div>
    </div>
  );
}

function Backends() {
  const { data, error, refetch } = useHealth();
  if (error) return <Failure error={error} retry={refetch} />;
  return (
    <Panel title={t("overview.health")}>
      <div className="body row" role="status">
        <Status tone={data?.status === "ok" ? "good" : data ? "bad" : "calm"}>
          {data ? t(data.status === "ok" ? "overview.ready" : "overview.notReady") : "…"}
        </Status>
        {Object.entries(data?.checks ?? {}).map(([name, state]) => (
          <Status key={name} tone={state === "ok" ? "good" : "bad"}>
            {name} {state === "ok" ? t("overview.ok") : t("overview.away")}
          </Status>
        ))}
      </div>
    </Panel>
  );
}

interface Matter {
  id: string;
  tone: Tone;
  what: string;
  name: string;
  link: string;
  mend: string;
}

/** Attention lists what needs it. That nothing does is said only once all is known. */
function Attention({ queues, schedules, known }: { queues: Queue[]; schedules: Schedule[]; known: "not yet" | "in part" | "all" }) {
  const { admin, tenant } = useSession();
  const own = useQuery(TenantService.method.getTenant, { name: tenant || "default" }, { enabled: admin, refetchInterval: seldom });
  const matters: Matter[] = [];
  for (const q of queues) {
    const link = `/queues/${encodeURIComponent(q.name)}`;
    const dead = q.deadLetters ?? 0n;
    if (dead > 0n) {
      matters.push({ id: `dead ${q.name}`, tone: "bad", what: t("matter.dead", { n: dead }), name: q.name, link: `${link}/dead`, mend: t("matter.dead.mend") });
    }
    if (q.paused && (q.depth ?? 0n) > 0n) {
      matters.push({ id: `paused ${q.name}`, tone: "warn", what: t("matter.paused", { n: q.depth ?? 0n }), name: q.name, link, mend: t("matter.paused.mend") });
    }
    if (q.maxLength > 0n && (q.depth ?? 0n) * 10n >= q.maxLength * 9n) {
      matters.push({ id: `full ${q.name}`, tone: "warn", what: t("matter.full"), name: q.name, link, mend: t("matter.full.mend") });
    }
  }
  for (const s of schedules) {
    const link = `/schedules/${encodeURIComponent(s.name)}`;
    const next = s.nextFireTimes[0];
    if (s.error) {
      matters.push({ id: `error ${s.name}`, tone: "bad", what: s.error, name: s.name, link, mend: t("matter.schedule.mend") });
    } else if (s.pause?.by === "service") {
      matters.push({ id: `stopped ${s.name}`, tone: "bad", what: t("matter.stopped"), name: s.name, link, mend: t("matter.schedule.mend") });
    } else if (next && serverNow() - timestampDate(next).getTime() > 30_000) {
      matters.push({ id: `late ${s.name}`, tone: "warn", what: t("matter.late"), name: s.name, link, mend: t("matter.schedule.mend") });
    }
  }
  for (const [quota, limit] of Object.entries(own.data?.quotas ?? {})) {
    const used = own.data?.usage[quota] ?? 0n;
    if (limit > 0n && used * 10n >= limit * 9n) {
      matters.push({
        id: `quota ${quota}`,
        tone: "warn",
        what: t("matter.quota", { used, limit }),
        name: quota,
        link: `/tenants/${encodeURIComponent(tenant || "default")}`,
        mend: t("matter.quota.mend"),
      });
    }
  }
  return (
    <Panel title={t("overview.attention")}>
      {known === "not yet" && matters.length === 0 ? (
        <Waiting />
      ) : matters.length === 0 ? (
        <div className="body">
          <Status tone={known === "all" ? "good" : "calm"}>{t(known === "all" ? "overview.calm" : "overview.unsure")}</Status>
        </div>
      ) : (
        <ul className="list">
          {matters.slice(0, 50).map((matter) => (
            <li key={matter.id}>
              <Status tone={matter.tone}>{matter.what}</Status>
              <span className="grow">
                <Link href={matter.link}>{matter.name}</Link>
              </span>
              <Link className="button" href={matter.link} aria-label={`${matter.mend}: ${matter.name}`}>
                {matter.mend}
              </Link>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

/** useHistory remembers the rates of all queues every 5 s, from when they are known. */
function useHistory(queues: Queue[], known: boolean) {
  const [history, setHistory] = useState<number[][]>([]);
  const latest = useRef(queues);
  useEffect(() => {
    latest.current = queues;
  }, [queues]);
  useEffect(() => {
    if (!known) return;
    const sum = (value: (q: Queue) => number) => latest.current.reduce((all, q) => all + value(q), 0);
    const take = () =>
      setHistory((before) => [
        ...before.slice(-59),
        [sum((q) => q.rates?.published ?? 0), sum((q) => q.rates?.delivered ?? 0), sum((q) => q.rates?.acknowledged ?? 0)],
      ]);
    const every = setInterval(take, 5000);
    take();
    return () => clearInterval(every);
  }, [known]);
  return [t("queue.published"), t("queue.delivered"), t("queue.acknowledged")].map((name, i) => ({
    name,
    values: history.map((at) => at[i] ?? 0),
  }));
}
