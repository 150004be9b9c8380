import { useMutation, useQuery } from "@connectrpc/connect-query";
import type { JsonObject } from "@bufbuild/protobuf";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useLocation } from "wouter";
import { ScheduleService, type Schedule as ScheduleMessage } from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { number, span, t } from "../../i18n";
import { often } from "../../rpc/client";
import { Exact, Fact, Field, Head, Panel, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Destroy, FormDialog } from "../../ui/dialog";
import { seconds } from "../../ui/duration";
import { Empty, Loaded } from "../../ui/state";
import { tell } from "../../ui/toast";
import { Backfill } from "./backfill";
import { Changes } from "./changes";
import { Editor } from "./editor";
import { State } from "./list";
import { Preview } from "./preview";
import { Runs } from "./runs";
import { action, catchUps, overlaps, path, timing } from "./words";

/** Schedule is one schedule: when it fires, and what became of it. */
export default function Schedule({ name, tab: wanted }: { name: string; tab: string }) {
  const query = useQuery(ScheduleService.method.get, { name }, { refetchInterval: often });
  const tabs = [
    ["runs", t("schedule.tab.runs")],
    ["plan", t("schedule.tab.plan")],
    ...(query.data && !query.data.builtIn && query.data.timing.case !== "at" ? ([["backfill", t("backfill")]] as const) : []),
    ["changes", t("schedule.tab.changes")],
  ] as const;
  const tab = tabs.some(([id]) => id === wanted) ? wanted : "runs";
  return (
    <div className="page">
      <Head title={name} crumbs={<Link href="/schedules">{t("nav.schedules")}</Link>}>
        {query.data && <Actions schedule={query.data} />}
      </Head>
      <Loaded query={query}>
        {(s) => (
          <>
            {s.description && <p className="text soft">{s.description}</p>}
            {s.error && <div className="notice bad text">{s.error}</div>}
            {s.pause && (
              <div className="notice warn">
                <span className="grow text">
                  {t("schedule.pausedBy", { by: s.pause.by })} <Time at={s.pause.time} />
                  {s.pause.note && `: ${s.pause.note}`}
                </span>
              </div>
            )}
            <dl className="facts">
              <Fact name={t("col.state")} small>
                <State of={s} />
              </Fact>
              <Fact name={t("schedule.next")} small>
                <Time at={s.nextFireTimes[0]} />
              </Fact>
              <Fact name={t("schedule.timing")} small>
                <code>{timing(s)}</code> {s.timing.case === "cron" && <span className="soft">{s.timeZone || "UTC"}</span>}
              </Fact>
              <Fact name={t("stats.fired")}>{number(s.stats?.fired ?? 0n)}</Fact>
              <Fact name={t("run.failed")}>{number(s.stats?.failed ?? 0n)}</Fact>
              <Fact name={t("run.skipped")}>{number(s.stats?.skipped ?? 0n)}</Fact>
              <Fact name={t("run.missed")}>{number(s.stats?.missed ?? 0n)}</Fact>
            </dl>
            <nav className="tabs" aria-label={name}>
              {tabs.map(([id, label]) => (
                <Link key={id} href={path(name, id === "runs" ? "" : id)} aria-current={tab === id ? "page" : undefined}>
                  {label}
                </Link>
              ))}
            </nav>
            {tab === "runs" && <Runs schedule={name} />}
            {tab === "plan" && <Plan schedule={s} />}
            {tab === "backfill" && <Backfill schedule={s} />}
          </>
        )}
      </Loaded>
      {tab === "changes" && <Changes schedule={name} />}
    </div>
  );
}

function Plan({ schedule: s }: { schedule: ScheduleMessage }) {
  const word = <V,>(of: [V, Parameters<typeof t>[0]][], value: V) => {
    const found = of.find(([v]) => v === value);
    return found ? t(found[1]) : t("timing.default");
  };
  const zone = s.timing.case === "cron" ? s.timeZone || "UTC" : "";
  return (
    <div className="columns">
      <Panel title={t("schedule.nextTimes")}>
        {s.nextFireTimes.length === 0 ? (
          <Empty title={t("timing.never")} />
        ) : (
          <ul className="list">
            {s.nextFireTimes.map((at) => (
              <li key={String(at.seconds)}>
                <span className="grow">
                  <Exact at={at} zone={zone} /> {zone && <span className="soft">{zone}</span>}
                </span>
                {zone && <Exact at={at} />}
                <Time at={at} />
              </li>
            ))}
          </ul>
        )}
      </Panel>
      <Panel title={t("schedule.does")}>
        <div className="body">
          <p className="text">{action(s)}</p>
          <dl className="pairs">
            <dt>{t("schedule.overlap")}</dt>
            <dd>{word(overlaps, s.overlapPolicy)}</dd>
            <dt>{t("schedule.catchUp")}</dt>
            <dd>{word(catchUps, s.catchUp)}</dd>
            <dt>{t("timing.jitter")}</dt>
            <dd>{seconds(s.jitter) > 0 ? span(seconds(s.jitter)) : t("none")}</dd>
            <dt>{t("schedule.attempts")}</dt>
            <dd>{number(s.retry?.maxAttempts || 1)}</dd>
            <dt>{t("schedule.timeout")}</dt>
            <dd>{s.attemptTimeout ? span(seconds(s.attemptTimeout)) : t("timing.default")}</dd>
            <dt>{t("schedule.version")}</dt>
            <dd>
              {number(s.version)} · {s.updatedBy} · <Time at={s.updateTime} />
            </dd>
          </dl>
        </div>
      </Panel>
      <Panel title={t("schedule.preview")}>
        <div className="body">
          <Preview
            name={s.name}
            timing={{
              ...(s.timing.case ? { timing: s.timing } : {}),
              timeZone: s.timeZone,
              ...(s.dstPolicy ? { dstPolicy: s.dstPolicy } : {}),
              ...(s.jitter ? { jitter: s.jitter } : {}),
            }}
          />
        </div>
      </Panel>
    </div>
  );
}

function Actions({ schedule: s }: { schedule: ScheduleMessage }) {
  const [, go] = useLocation();
  const client = useQueryClient();
  const [asked, setAsked] = useState<"trigger" | "pause" | "resume" | "edit" | "delete" | null>(null);
  const [note, setNote] = useState("");
  const [args, setArgs] = useState("");
  const [key] = useState(() => crypto.randomUUID());
  const trigger = useMutation(ScheduleService.method.trigger);
  const pause = useMutation(ScheduleService.method.pause);
  const resume = useMutation(ScheduleService.method.resume);
  const remove = useMutation(ScheduleService.method.delete);
  const close = () => setAsked(null);
  const name = s.name;
  const parsed = parse(args);
  const triggered = () => ({ name, ...(parsed ? { arguments: parsed } : {}) });
  const turn = asked === "resume" ? resume : pause;

  return (
    <div className="row">
      <button onClick={() => setAsked("trigger")}>{t("schedule.trigger")}</button>
      {!s.builtIn && (
        <>
          <button onClick={() => setAsked(s.pause ? "resume" : "pause")}>{s.pause ? t("queue.resume") : t("queue.pause")}</button>
          <button onClick={() => setAsked("edit")}>{t("action.edit")}</button>
          <button className="danger" onClick={() => setAsked("delete")}>
            {t("action.delete")}
          </button>
        </>
      )}
      {asked === "edit" && <Editor schedule={s} close={close} />}
      {asked === "trigger" && (
        <FormDialog
          title={t("schedule.trigger.title", { name })}
          action={t("schedule.trigger")}
          close={close}
          disabled={parsed === null}
          extra={<CopyAs method={ScheduleService.method.trigger} input={triggered} />}
          submit={async () => {
            const run = await trigger.mutateAsync({ ...triggered(), idempotencyKey: `${key} ${args}` });
            await client.invalidateQueries();
            tell(t("schedule.triggered"));
            go(`${path(name)}?run=${run.id}`);
          }}
        >
          <Field label={t("run.arguments")} hint={t("run.arguments.hint")} wrong={parsed === null ? t("json.object") : undefined}>
            <textarea rows={4} spellCheck={false} placeholder="{}" value={args} onChange={(e) => setArgs(e.target.value)} />
          </Field>
        </FormDialog>
      )}
      {(asked === "pause" || asked === "resume") && (
        <FormDialog
          title={t(asked === "pause" ? "schedule.pause.title" : "schedule.resume.title", { name })}
          action={t(asked === "pause" ? "queue.pause" : "queue.resume")}
          close={close}
          extra={
            asked === "pause" ? (
              <CopyAs method={ScheduleService.method.pause} input={() => ({ name, note })} />
            ) : (
              <CopyAs method={ScheduleService.method.resume} input={() => ({ name, note })} />
            )
          }
          submit={async () => {
            await turn.mutateAsync({ name, note });
            await client.invalidateQueries();
            tell(t(asked === "pause" ? "schedule.paused.done" : "schedule.resumed.done", { name }));
            setNote("");
          }}
        >
          <Field label={t("schedule.note")} hint={t("schedule.note.hint")}>
            <input maxLength={1000} value={note} onChange={(e) => setNote(e.target.value)} />
          </Field>
        </FormDialog>
      )}
      {asked === "delete" && (
        <Destroy
          title={t("schedule.delete.title", { name })}
          name={name}
          typed
          action={t("action.delete")}
          close={close}
          extra={<CopyAs method={ScheduleService.method.delete} input={() => ({ name })} />}
          submit={async () => {
            await remove.mutateAsync({ name });
            tell(t("queue.deleted", { name }));
            go("/schedules");
            await client.invalidateQueries();
          }}
        >
          {t("schedule.delete.what")}
        </Destroy>
      )}
    </div>
  );
}

/** parse reads arguments: undefined is none, and null is no JSON object. */
function parse(text: string): JsonObject | undefined | null {
  if (!text.trim()) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as JsonObject) : null;
  } catch {
    return null;
  }
}
