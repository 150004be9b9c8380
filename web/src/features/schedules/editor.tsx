import { useMutation } from "@connectrpc/connect-query";
import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useLocation } from "wouter";
import {
  CatchUp,
  DstGap,
  DstOverlap,
  OverlapPolicy,
  ScheduleService,
  type CreateRequestSchema,
  type Schedule,
  type UpdateRequestSchema,
} from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { t } from "../../i18n";
import { serverNow } from "../../rpc/clock";
import { Field } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { FormDialog } from "../../ui/dialog";
import { localText, moment, parseSpan, writeSpan } from "../../ui/duration";
import { tell } from "../../ui/toast";
import { Preview } from "./preview";
import { catchUps, overlaps, path } from "./words";

/** placeholders are what the service replaces in messages and bodies. */
const placeholders = "{{run_id}} {{schedule}} {{trigger}} {{attempt}} {{fire_time}} {{due_time}} {{arguments}}";

type Timing = "cron" | "interval" | "at";
type Action = "publish" | "http" | "job";

interface Draft {
  name: string;
  description: string;
  timing: Timing;
  cron: string;
  interval: string;
  at: string;
  zone: string;
  gap: DstGap;
  repeat: DstOverlap;
  jitter: string;
  overlap: OverlapPolicy;
  catchUp: CatchUp;
  attempts: string;
  timeout: string;
  stopAfter: string;
  action: Action;
  queue: string;
  text: string;
  url: string;
  method: string;
  body: string;
  job: string;
  arguments: string;
}

function draftOf(s: Schedule | undefined): Draft {
  const { action, timing } = s ?? {};
  return {
    name: s?.name ?? "",
    description: s?.description ?? "",
    timing: timing?.case ?? "cron",
    cron: timing?.case === "cron" ? timing.value : "0 9 * * 1-5",
    interval: timing?.case === "interval" ? writeSpan(timing.value) : "15 min",
    at: localText(timing?.case === "at" ? timestampDate(timing.value) : new Date(serverNow() + 3_600_000)),
    zone: s ? s.timeZone : Intl.DateTimeFormat().resolvedOptions().timeZone,
    gap: s?.dstPolicy?.gap ?? DstGap.UNSPECIFIED,
    repeat: s?.dstPolicy?.overlap ?? DstOverlap.UNSPECIFIED,
    jitter: writeSpan(s?.jitter),
    overlap: s?.overlapPolicy || OverlapPolicy.SKIP,
    catchUp: s?.catchUp || CatchUp.LATEST,
    attempts: String(s?.retry?.maxAttempts || 1),
    timeout: writeSpan(s?.attemptTimeout),
    stopAfter: String(s?.pauseAfterFailures ?? 0),
    action: action?.case ?? "publish",
    queue: action?.case === "publish" ? action.value.queue : "",
    text: action?.case === "publish" && action.value.payload.case === "message" ? action.value.payload.value : "",
    url: action?.case === "http" ? action.value.url : "",
    method: action?.case === "http" ? action.value.method || "POST" : "POST",
    body: action?.case === "http" ? action.value.body : "",
    job: action?.case === "job" ? action.value.name : "",
    arguments: action?.case === "job" && action.value.arguments ? JSON.stringify(action.value.arguments, null, 2) : "",
  };
}

/** timingOf is the part of a request that says when. */
export function timingOf(d: Draft) {
  const jitter = parseSpan(d.jitter);
  const interval = parseSpan(d.interval);
  const at = moment(d.at);
  const timing =
    d.timing === "cron"
      ? { case: "cron" as const, value: d.cron }
      : d.timing === "interval" && interval
        ? { case: "interval" as const, value: interval }
        : d.timing === "at" && at
          ? { case: "at" as const, value: at }
          : undefined;
  return {
    ...(timing ? { timing } : {}),
    timeZone: d.timing === "cron" ? d.zone : "",
    ...(d.timing === "cron" ? { dstPolicy: { gap: d.gap, overlap: d.repeat } } : {}),
    ...(jitter ? { jitter } : {}),
  };
}

/** actionOf is the part that says what. What the form does not show stays as it is: attributes, headers, a topic. */
function actionOf(d: Draft, s: Schedule | undefined): MessageInitShape<typeof CreateRequestSchema>["action"] {
  const before = s?.action;
  switch (d.action) {
    case "publish": {
      const old = before?.case === "publish" ? before.value : undefined;
      const binary = old?.payload.case === "data" && d.text === "" ? old.payload : undefined;
      return {
        case: "publish",
        value: {
          ...(d.queue ? { queue: d.queue } : { topic: old?.topic ?? "", routingKey: old?.routingKey ?? "" }),
          payload: binary ?? { case: "message", value: d.text },
          attributes: old?.attributes ?? {},
          ...(old?.when.case === "delay" ? { when: old.when } : {}),
        },
      };
    }
    case "http": {
      const old = before?.case === "http" ? before.value : undefined;
      return {
        case: "http",
        value: { url: d.url, method: d.method, body: d.body, headers: old?.headers ?? {}, successCodes: old?.successCodes ?? [] },
      };
    }
    case "job":
      return { case: "job", value: { name: d.job, ...(d.arguments.trim() ? { arguments: JSON.parse(d.arguments) as JsonObject } : {}) } };
  }
}

function badJson(text: string): boolean {
  if (!text.trim()) return false;
  try {
    const value: unknown = JSON.parse(text);
    return typeof value !== "object" || value === null || Array.isArray(value);
  } catch {
    return true;
  }
}

/** Editor makes a schedule, or changes one. What the server makes of the timing is shown while it is written. */
export function Editor({ schedule, close }: { schedule?: Schedule; close: () => void }) {
  const [, go] = useLocation();
  const client = useQueryClient();
  const create = useMutation(ScheduleService.method.create);
  const update = useMutation(ScheduleService.method.update);
  const [draft, setDraft] = useState(() => draftOf(schedule));
  const set = (change: Partial<Draft>) => setDraft({ ...draft, ...change });

  const wrongJson = draft.action === "job" && badJson(draft.arguments);
  const wrongSpan = (text: string) => (text && !parseSpan(text) ? t("hint.span") : undefined);
  const wrong =
    wrongJson ||
    Boolean(wrongSpan(draft.jitter) ?? wrongSpan(draft.timeout)) ||
    (draft.timing === "interval" && !parseSpan(draft.interval)) ||
    (draft.timing === "at" && !moment(draft.at));

  const request = () => {
    const attemptTimeout = parseSpan(draft.timeout);
    return {
      name: draft.name,
      description: draft.description,
      ...timingOf(draft),
      overlapPolicy: draft.overlap,
      catchUp: draft.catchUp,
      retry: { ...schedule?.retry, maxAttempts: Number(draft.attempts) || 1 },
      ...(attemptTimeout ? { attemptTimeout } : {}),
      pauseAfterFailures: Number(draft.stopAfter) || 0,
      action: wrongJson ? undefined : actionOf(draft, schedule),
    } as MessageInitShape<typeof CreateRequestSchema>;
  };
  const change = () =>
    ({
      ...request(),
      version: schedule?.version ?? 0n,
      updateMask: {
        paths: [
          "description", draft.timing, "time_zone", "dst_policy", "jitter", "overlap_policy", "catch_up", "retry", "attempt_timeout",
          "pause_after_failures", draft.action,
        ],
      },
    }) as MessageInitShape<typeof UpdateRequestSchema>;

  async function submit() {
    if (schedule) await update.mutateAsync(change());
    else await create.mutateAsync(request());
    await client.invalidateQueries();
    tell(t(schedule ? "schedule.changed" : "schedule.created", { name: draft.name }));
  }

  return (
    <FormDialog
      wide
      title={schedule ? t("schedule.edit", { name: schedule.name }) : t("schedule.new")}
      action={schedule ? t("action.save") : t("action.create")}
      disabled={wrong}
      close={close}
      submit={submit}
      done={schedule ? close : () => go(path(draft.name))}
      extra={schedule ? <CopyAs method={ScheduleService.method.update} input={change} /> : <CopyAs method={ScheduleService.method.create} input={request} />}
    >
      <div className="form">
        {!schedule && (
          <Field label={t("col.name")} hint={t("schedule.name.hint")}>
            <input
              required
              maxLength={100}
              pattern="[A-Za-z0-9][A-Za-z0-9_\-]*(\.[A-Za-z0-9_\-]+)*"
              value={draft.name}
              onChange={(e) => set({ name: e.target.value })}
            />
          </Field>
        )}
        <Field label={t("schedule.description")}>
          <input maxLength={1000} value={draft.description} onChange={(e) => set({ description: e.target.value })} />
        </Field>
      </div>
      <h3>{t("schedule.timing")}</h3>
      <div className="form">
        <Field label={t("timing.kind")}>
          <select value={draft.timing} onChange={(e) => set({ timing: e.target.value as Timing })}>
            <option value="cron">{t("timing.cron")}</option>
            <option value="interval">{t("timing.interval")}</option>
            <option value="at">{t("timing.at")}</option>
          </select>
        </Field>
        {draft.timing === "cron" && (
          <>
            <Field label={t("timing.expression")} hint={t("timing.expression.hint")}>
              <input className="mono" required spellCheck={false} value={draft.cron} onChange={(e) => set({ cron: e.target.value })} />
            </Field>
            <Field label={t("timing.zone")}>
              <input list="zones" placeholder="UTC" spellCheck={false} value={draft.zone} onChange={(e) => set({ zone: e.target.value })} />
            </Field>
            <datalist id="zones">
              {Intl.supportedValuesOf("timeZone").map((zone) => (
                <option key={zone} value={zone} />
              ))}
            </datalist>
          </>
        )}
        {draft.timing === "interval" && (
          <Field label={t("timing.interval")} wrong={wrongSpan(draft.interval || "?")}>
            <input required value={draft.interval} onChange={(e) => set({ interval: e.target.value })} />
          </Field>
        )}
        {draft.timing === "at" && (
          <Field label={t("timing.at")} hint={t("timing.viewer")}>
            <input type="datetime-local" required value={draft.at} onChange={(e) => set({ at: e.target.value })} />
          </Field>
        )}
        <Field label={t("timing.jitter")} wrong={wrongSpan(draft.jitter)}>
          <input value={draft.jitter} placeholder={t("none")} onChange={(e) => set({ jitter: e.target.value })} />
        </Field>
        {draft.timing === "cron" && (
          <>
            <Field label={t("dst.gap")}>
              <select value={draft.gap} onChange={(e) => set({ gap: Number(e.target.value) })}>
                <option value={DstGap.UNSPECIFIED}>{t("dst.cron")}</option>
                <option value={DstGap.SKIP}>{t("dst.skip")}</option>
                <option value={DstGap.SHIFT}>{t("dst.shift")}</option>
              </select>
            </Field>
            <Field label={t("dst.overlap")}>
              <select value={draft.repeat} onChange={(e) => set({ repeat: Number(e.target.value) })}>
                <option value={DstOverlap.UNSPECIFIED}>{t("dst.cron")}</option>
                <option value={DstOverlap.ONCE}>{t("dst.once")}</option>
                <option value={DstOverlap.TWICE}>{t("dst.twice")}</option>
              </select>
            </Field>
          </>
        )}
      </div>
      <Preview name={draft.name} timing={timingOf(draft)} />
      <h3>{t("schedule.does")}</h3>
      <div className="form">
        <Field label={t("does.kind")}>
          <select value={draft.action} onChange={(e) => set({ action: e.target.value as Action })}>
            <option value="publish">{t("does.publish")}</option>
            <option value="http">{t("does.http")}</option>
            <option value="job">{t("does.job")}</option>
          </select>
        </Field>
        {draft.action === "publish" && (
          <>
            <Field label={t("queue")}>
              <input
                required={!(schedule?.action.case === "publish" && schedule.action.value.topic)}
                value={draft.queue}
                onChange={(e) => set({ queue: e.target.value })}
              />
            </Field>
            <Field label={t("publish.payload")} hint={t("does.replaced", { names: placeholders })} wide>
              <textarea rows={3} spellCheck={false} value={draft.text} onChange={(e) => set({ text: e.target.value })} />
            </Field>
          </>
        )}
        {draft.action === "http" && (
          <>
            <Field label={t("does.method")}>
              <select value={draft.method} onChange={(e) => set({ method: e.target.value })}>
                {["POST", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"].map((method) => (
                  <option key={method}>{method}</option>
                ))}
              </select>
            </Field>
            <Field label="URL" wide>
              <input type="url" required value={draft.url} onChange={(e) => set({ url: e.target.value })} />
            </Field>
            <Field label={t("does.body")} hint={t("does.replaced", { names: placeholders })} wide>
              <textarea rows={3} spellCheck={false} value={draft.body} onChange={(e) => set({ body: e.target.value })} />
            </Field>
          </>
        )}
        {draft.action === "job" && (
          <>
            <Field label={t("does.jobName")}>
              <input required value={draft.job} onChange={(e) => set({ job: e.target.value })} />
            </Field>
            <Field label={t("run.arguments")} wrong={wrongJson ? t("json.object") : undefined} wide>
              <textarea rows={3} spellCheck={false} value={draft.arguments} placeholder="{}" onChange={(e) => set({ arguments: e.target.value })} />
            </Field>
          </>
        )}
      </div>
      <details>
        <summary>{t("schedule.policies")}</summary>
        <div className="form">
          <Field label={t("schedule.overlap")}>
            <select value={draft.overlap} onChange={(e) => set({ overlap: Number(e.target.value) })}>
              {overlaps.map(([value, key]) => (
                <option key={value} value={value}>
                  {t(key)}
                </option>
              ))}
            </select>
          </Field>
          <Field label={t("schedule.catchUp")}>
            <select value={draft.catchUp} onChange={(e) => set({ catchUp: Number(e.target.value) })}>
              {catchUps.map(([value, key]) => (
                <option key={value} value={value}>
                  {t(key)}
                </option>
              ))}
            </select>
          </Field>
          <Field label={t("schedule.attempts")} hint="1 – 100">
            <input type="number" min={1} max={100} value={draft.attempts} onChange={(e) => set({ attempts: e.target.value })} />
          </Field>
          <Field label={t("schedule.timeout")} wrong={wrongSpan(draft.timeout)}>
            <input value={draft.timeout} placeholder={t("schedule.timeout.default")} onChange={(e) => set({ timeout: e.target.value })} />
          </Field>
          <Field label={t("schedule.stopAfter")} hint={t("schedule.stopAfter.hint")}>
            <input type="number" min={0} max={1000} value={draft.stopAfter} onChange={(e) => set({ stopAfter: e.target.value })} />
          </Field>
        </div>
      </details>
    </FormDialog>
  );
}
