import { useMutation, useQuery } from "@connectrpc/connect-query";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link } from "wouter";
import { RunState, ScheduleService, type Run } from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { exact, number, span, t } from "../../i18n";
import { serverNow } from "../../rpc/clock";
import { Exact, Field, Panel, Status, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Dialog } from "../../ui/dialog";
import { Payload } from "../../ui/payload";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";
import { tell, tellError } from "../../ui/toast";
import { stateOf, states, triggerOf } from "./words";

/** Runs are what became of the fire times, the latest first. */
export function Runs({ schedule }: { schedule: string }) {
  const [filter, setFilter] = useFilter(["state", "run"]);
  const [tokens, setTokens] = useState<string[]>([]);
  const state = Number(filter.state) as RunState;
  const query = useQuery(
    ScheduleService.method.listRuns,
    { schedule, pageSize: 100, pageToken: tokens.at(-1) ?? "", states: state ? [state] : [] },
    { refetchInterval: 3000, placeholderData: (before) => before },
  );
  return (
    <>
      <div className="filters">
        <Field label={t("col.state")}>
          <select
            value={filter.state}
            onChange={(e) => {
              setTokens([]);
              setFilter({ state: e.target.value });
            }}
          >
            <option value="">{t("any")}</option>
            {states.map(([value, key]) => (
              <option key={value} value={value}>
                {t(key)}
              </option>
            ))}
          </select>
        </Field>
      </div>
      <Panel title={t("schedule.tab.runs")}>
        <Loaded query={query}>
          {(data) =>
            data.runs.length === 0 ? (
              <Empty title={state ? t("filter.none") : t("runs.none")}>{!state && <p>{t("runs.none.hint")}</p>}</Empty>
            ) : (
              <>
                <Timeline runs={data.runs} open={(run) => setFilter({ run: run.id })} />
                <Table
                  label={t("schedule.tab.runs")}
                  rows={data.runs}
                  id={(run) => run.id}
                  open={(run) => setFilter({ run: run.id })}
                  columns={[
                    {
                      name: t("run.fireTime"),
                      cell: (run) => (
                        <button className="link" onClick={() => setFilter({ run: run.id })}>
                          {run.fireTime && <Exact at={run.fireTime} />}
                        </button>
                      ),
                    },
                    { name: t("col.state"), cell: (run) => <State run={run} /> },
                    { name: t("run.trigger"), cell: triggerOf },
                    { name: t("run.attempt"), num: true, cell: (run) => number(run.attempt) },
                    { name: t("run.took"), num: true, cell: (run) => took(run) },
                    { name: t("run.what"), cell: (run) => <span className="clip">{run.error || run.skipReason}</span> },
                  ]}
                />
                <div className="body">
                  <Pager token={tokens} next={data.nextPageToken} go={setTokens} />
                </div>
              </>
            )
          }
        </Loaded>
      </Panel>
      {filter.run && <One schedule={schedule} id={filter.run} close={() => setFilter({ run: "" })} />}
    </>
  );
}

/** RunLink leads to a run by its fire time. */
export function RunLink({ run, to }: { run: Run; to: string }) {
  return <Link href={to}>{run.fireTime && <Exact at={run.fireTime} />}</Link>;
}

export function State({ run }: { run: Run }) {
  const { word, tone } = stateOf(run);
  return <Status tone={tone}>{run.missedCount > 1n ? `${word} × ${number(run.missedCount)}` : word}</Status>;
}

function length(run: Run): number {
  if (!run.startTime) return 0;
  const end = run.endTime ? timestampDate(run.endTime).getTime() : serverNow();
  return Math.max(0, (end - timestampDate(run.startTime).getTime()) / 1000);
}

function took(run: Run): string {
  return run.startTime ? span(length(run)) : "–";
}

/** Timeline is a bar for each run, as high as it took long. The latest is on the right. */
function Timeline({ runs, open }: { runs: Run[]; open: (run: Run) => void }) {
  const bars = runs.slice(0, 60).reverse();
  const longest = Math.max(0.001, ...bars.map(length));
  return (
    <div className="body">
      <svg className="timeline" viewBox="0 0 600 48" role="group" aria-label={t("runs.timeline")} preserveAspectRatio="none">
        {bars.map((run, i) => {
          const height = 6 + 42 * (length(run) / longest);
          return (
            <rect
              key={run.id}
              className={stateOf(run).tone}
              x={i * 10 + (60 - bars.length) * 10}
              y={48 - height}
              width={8}
              height={height}
              onClick={() => open(run)}
            >
              <title>{`${stateOf(run).word}, ${run.fireTime ? exact(timestampDate(run.fireTime)) : ""}, ${took(run)}`}</title>
            </rect>
          );
        })}
      </svg>
    </div>
  );
}

function One({ schedule, id, close }: { schedule: string; id: string; close: () => void }) {
  const client = useQueryClient();
  const query = useQuery(
    ScheduleService.method.getRun,
    { schedule, id },
    { refetchInterval: (q) => (q.state.data?.endTime && q.state.data.state !== RunState.CLAIMED ? false : 1000) },
  );
  const cancel = useMutation(ScheduleService.method.cancelRun);
  const retry = useMutation(ScheduleService.method.retryRun);
  async function act(method: typeof cancel | typeof retry, done: string) {
    try {
      await method.mutateAsync({ schedule, id });
      tell(done);
      await client.invalidateQueries();
    } catch (error) {
      tellError(error);
    }
  }
  return (
    <Dialog wide title={t("run.one")} close={close}>
      <Loaded query={query}>
        {(run) => {
          const open = run.state === RunState.CLAIMED || run.state === RunState.RUNNING;
          const again = run.state === RunState.FAILED || run.state === RunState.CANCELLED || run.state === RunState.SKIPPED;
          const facts: [string, React.ReactNode][] = [
            [t("col.state"), <State run={run} />],
            [t("run.trigger"), triggerOf(run)],
            [t("run.fireTime"), run.fireTime && <Exact at={run.fireTime} />],
            [t("run.due"), run.dueTime && <Exact at={run.dueTime} />],
            [t("run.attempt"), number(run.attempt)],
            [t("run.start"), run.startTime && <Exact at={run.startTime} />],
            [t("run.took"), run.startTime ? took(run) : null],
            [t("run.nextAttempt"), run.nextAttemptTime && <Time at={run.nextAttemptTime} />],
            [t("run.worker"), run.worker],
            [t("message.id"), run.messageId && <code>{run.messageId}</code>],
            [t("run.skipReason"), run.skipReason],
            [t("run.error"), run.error && <span className="text">{run.error}</span>],
            [t("run.arguments"), run.arguments && <code className="text">{JSON.stringify(run.arguments)}</code>],
            [t("run.answer"), run.http && number(run.http.statusCode)],
          ];
          return (
            <>
              <dl className="pairs">
                {facts.map(
                  ([name, value]) =>
                    value && (
                      <div key={name} className="contents">
                        <dt>{name}</dt>
                        <dd>{value}</dd>
                      </div>
                    ),
                )}
              </dl>
              {run.http && run.http.body.length > 0 && <Payload data={run.http.body} />}
              <h3>{t("run.log")}</h3>
              {run.log.length === 0 ? (
                <p className="soft">{t("run.log.none")}</p>
              ) : (
                <pre className="payload" role="region" tabIndex={0} aria-label={t("run.log")}>
                  {run.log.map((line) => `${line.time ? timestampDate(line.time).toISOString() : ""} ${line.level} ${line.message}`).join("\n")}
                  {run.logTruncated ? `\n${t("run.log.cut")}` : ""}
                </pre>
              )}
              <footer>
                {open && (
                  <>
                    <CopyAs method={ScheduleService.method.cancelRun} input={() => ({ schedule, id })} />
                    <button className="danger" disabled={cancel.isPending} onClick={() => void act(cancel, t("run.cancel.done"))}>
                      {t("run.cancel")}
                    </button>
                  </>
                )}
                {again && (
                  <>
                    <CopyAs method={ScheduleService.method.retryRun} input={() => ({ schedule, id })} />
                    <button className="primary" disabled={retry.isPending} onClick={() => void act(retry, t("run.retry.done"))}>
                      {t("run.retry")}
                    </button>
                  </>
                )}
                <button onClick={close}>{t("action.close")}</button>
              </footer>
            </>
          );
        }}
      </Loaded>
    </Dialog>
  );
}
