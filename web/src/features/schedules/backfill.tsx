import { useMutation, useQuery, skipToken } from "@connectrpc/connect-query";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, type FormEvent } from "react";
import {
  OverlapPolicy,
  RunState,
  ScheduleService,
  type BackfillRequestSchema,
  type BackfillResponse,
  type Schedule,
} from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { number, t } from "../../i18n";
import { serverNow } from "../../rpc/clock";
import { Exact, Field, Panel, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { localText, moment } from "../../ui/duration";
import { useFilter } from "../../ui/query";
import { Empty, Failure, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";
import { tell, tellError } from "../../ui/toast";
import { RunLink, State } from "./runs";
import { overlaps, path } from "./words";

/** Backfill runs the fire times of a range that has passed. The server first says which ones; what is confirmed is exactly those. */
export function Backfill({ schedule }: { schedule: Schedule }) {
  const [filter, setFilter] = useFilter(["backfill"]);
  return filter.backfill ? (
    <Progress schedule={schedule.name} id={filter.backfill} another={() => setFilter({ backfill: "" })} />
  ) : (
    <Plan schedule={schedule} done={(id) => setFilter({ backfill: id })} />
  );
}

function Plan({ schedule, done }: { schedule: Schedule; done: (id: string) => void }) {
  const name = schedule.name;
  const client = useQueryClient();
  const backfill = useMutation(ScheduleService.method.backfill);
  const [from, setFrom] = useState(() => localText(new Date(serverNow() - 86_400_000)));
  const [to, setTo] = useState(() => localText(new Date(serverNow())));
  const [overlap, setOverlap] = useState(OverlapPolicy.UNSPECIFIED);
  const [most, setMost] = useState("");
  const [planned, setPlanned] = useState<BackfillResponse | null>(null);
  const [error, setError] = useState<unknown>(null);
  const start = moment(from);
  const end = moment(to);
  const zone = schedule.timing.case === "cron" ? schedule.timeZone || "UTC" : "";
  const request = (): MessageInitShape<typeof BackfillRequestSchema> => ({
    name,
    ...(start ? { startTime: start } : {}),
    ...(end ? { endTime: end } : {}),
    overlapPolicy: overlap,
    maxConcurrent: Number(most) || 0,
    dryRun: true,
  });

  // What was planned is not what would be planned any more once something else is asked for.
  useEffect(() => setPlanned(null), [from, to, overlap, most]);

  async function ask(event: FormEvent) {
    event.preventDefault();
    setError(null);
    try {
      setPlanned(await backfill.mutateAsync(request()));
    } catch (failure) {
      setError(failure);
    }
  }
  async function run(token: string) {
    setError(null);
    try {
      const { backfillId } = await backfill.mutateAsync({ name, token });
      await client.invalidateQueries();
      done(backfillId);
    } catch (failure) {
      setError(failure);
    }
  }

  return (
    <Panel title={t("backfill")} actions={<CopyAs method={ScheduleService.method.backfill} input={request} />}>
      <form className="body" onSubmit={(e) => void ask(e)}>
        <p className="soft">{t("backfill.what")}</p>
        <div className="form">
          <Field label={t("backfill.from")} hint={t("timing.viewer")}>
            <input type="datetime-local" required value={from} onChange={(e) => setFrom(e.target.value)} />
          </Field>
          <Field label={t("backfill.to")} hint={t("timing.viewer")}>
            <input type="datetime-local" required value={to} onChange={(e) => setTo(e.target.value)} />
          </Field>
          <Field label={t("schedule.overlap")}>
            <select value={overlap} onChange={(e) => setOverlap(Number(e.target.value))}>
              <option value={OverlapPolicy.UNSPECIFIED}>{t("timing.default")}</option>
              {overlaps.map(([value, key]) => (
                <option key={value} value={value}>
                  {t(key)}
                </option>
              ))}
            </select>
          </Field>
          <Field label={t("backfill.most")}>
            <input type="number" min={0} max={1000} placeholder="1" value={most} onChange={(e) => setMost(e.target.value)} />
          </Field>
        </div>
        <button className={planned ? "" : "primary"} disabled={backfill.isPending || !start || !end}>
          {t("backfill.plan")}
        </button>
        {error !== null && <Failure error={error} />}
      </form>
      {planned && planned.count === 0 && <Empty title={t("backfill.none")} />}
      {planned && planned.count > 0 && (
        <div className="body">
          <p role="status">{t("backfill.count", { n: planned.count })}</p>
          <ol className="payload" tabIndex={0} role="region" aria-label={t("backfill.times")}>
            {planned.fireTimes.map((at, i) => (
              <li key={i}>
                <Exact at={at} zone={zone} /> <span className="soft">{zone}</span>
              </li>
            ))}
          </ol>
          <div className="row">
            <CopyAs method={ScheduleService.method.backfill} input={() => ({ name, token: planned.token })} />
            <button className="primary" disabled={backfill.isPending} onClick={() => void run(planned.token)}>
              {t("backfill.go", { n: planned.count })}
            </button>
          </div>
        </div>
      )}
    </Panel>
  );
}

/** Progress follows a backfill until the last of its runs is over. */
function Progress({ schedule, id, another }: { schedule: string; id: string; another: () => void }) {
  const [tokens, setTokens] = useState<string[]>([]);
  const client = useQueryClient();
  const cancel = useMutation(ScheduleService.method.cancelBackfill);
  const request = { schedule, id };
  const query = useQuery(ScheduleService.method.getBackfill, request, {
    refetchInterval: (q) => (q.state.data?.completeTime ? false : 1000),
  });
  const over = query.data?.completeTime !== undefined;
  const runs = useQuery(
    ScheduleService.method.listRuns,
    query.data ? { schedule, backfillId: id, pageSize: 100, pageToken: tokens.at(-1) ?? "" } : skipToken,
    { refetchInterval: over ? false : 2000, placeholderData: (before) => before },
  );
  // The last states come with the end.
  useEffect(() => {
    if (over) void client.invalidateQueries();
  }, [over, client]);

  async function stop() {
    try {
      await cancel.mutateAsync(request);
      tell(t("backfill.cancelled"));
      await client.invalidateQueries();
    } catch (error) {
      tellError(error);
    }
  }
  return (
    <>
      <Panel title={t("backfill")} actions={<button onClick={another}>{t("backfill.another")}</button>}>
        <Loaded query={query}>
          {(b) => (
            <div className="body">
              <p>
                {b.startTime && <Exact at={b.startTime} />} – {b.endTime && <Exact at={b.endTime} />} · {b.by} · <Time at={b.createTime} />
              </p>
              <progress aria-label={t("bulk.progress")} max={b.count || 1} value={b.count - b.queued - b.active} />
              <p role="status">
                {over
                  ? t("backfill.over", { n: b.count })
                  : t("backfill.running", { n: b.count - b.queued - b.active, all: b.count, active: b.active })}
                {b.cancelledBy && ` ${t("backfill.cancelledBy", { by: b.cancelledBy })}`}
              </p>
              {!over && (
                <div className="row">
                  <CopyAs method={ScheduleService.method.cancelBackfill} input={() => request} />
                  <button className="danger" disabled={cancel.isPending || b.cancelledBy !== ""} onClick={() => void stop()}>
                    {t("backfill.cancel")}
                  </button>
                </div>
              )}
            </div>
          )}
        </Loaded>
      </Panel>
      <Panel title={t("schedule.tab.runs")}>
        <Loaded query={runs}>
          {(data) => (
            <>
              <Table
                label={t("schedule.tab.runs")}
                rows={data.runs}
                id={(run) => run.id}
                columns={[
                  { name: t("run.fireTime"), cell: (run) => <RunLink run={run} to={`${path(schedule)}?run=${run.id}`} /> },
                  { name: t("col.state"), cell: (run) => <State run={run} /> },
                  { name: t("run.attempt"), num: true, cell: (run) => number(run.attempt) },
                  {
                    name: t("run.what"),
                    cell: (run) => <span className="clip">{run.state === RunState.SUCCEEDED ? "" : run.error || run.skipReason}</span>,
                  },
                ]}
              />
              <div className="body">
                <Pager token={tokens} next={data.nextPageToken} go={setTokens} />
              </div>
            </>
          )}
        </Loaded>
      </Panel>
    </>
  );
}
