import { timestampDate } from "@bufbuild/protobuf/wkt";
import { CatchUp, OverlapPolicy, RunState, RunTrigger, type Run, type Schedule } from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { exact, span, t, type Key } from "../../i18n";
import type { Tone } from "../../ui/basic";
import { seconds } from "../../ui/duration";

export function path(name: string, tab = ""): string {
  return `/schedules/${encodeURIComponent(name)}${tab && `/${tab}`}`;
}

/** timing is when a schedule fires, as it was written. */
export function timing(s: Pick<Schedule, "timing">): string {
  switch (s.timing.case) {
    case "cron":
      return s.timing.value;
    case "interval":
      return t("timing.every", { span: span(seconds(s.timing.value)) });
    case "at":
      return exact(timestampDate(s.timing.value));
  }
  return "";
}

export function action(s: Pick<Schedule, "action">): string {
  switch (s.action.case) {
    case "publish":
      return t("action.publish", { to: s.action.value.queue || s.action.value.topic });
    case "http":
      return `${s.action.value.method || "POST"} ${s.action.value.url}`;
    case "job":
      return t("action.job", { name: s.action.value.name });
  }
  return "";
}

export const states: [RunState, Key, Tone][] = [
  [RunState.CLAIMED, "run.claimed", "calm"],
  [RunState.RUNNING, "run.running", "busy"],
  [RunState.SUCCEEDED, "run.succeeded", "good"],
  [RunState.FAILED, "run.failed", "bad"],
  [RunState.SKIPPED, "run.skipped", "warn"],
  [RunState.CANCELLED, "run.cancelled", "warn"],
  [RunState.MISSED, "run.missed", "warn"],
];

export function stateOf(run: Run): { word: string; tone: Tone } {
  const [, key, tone] = states.find(([state]) => state === run.state) ?? states[0]!;
  return { word: t(key), tone };
}

const triggers: Partial<Record<RunTrigger, Key>> = {
  [RunTrigger.SCHEDULE]: "trigger.schedule",
  [RunTrigger.CATCH_UP]: "trigger.catchUp",
  [RunTrigger.MANUAL]: "trigger.manual",
  [RunTrigger.BACKFILL]: "trigger.backfill",
};

export function triggerOf(run: Run): string {
  const key = triggers[run.trigger];
  return key ? t(key) : "";
}

export const overlaps: [OverlapPolicy, Key][] = [
  [OverlapPolicy.SKIP, "overlap.skip"],
  [OverlapPolicy.BUFFER_ONE, "overlap.bufferOne"],
  [OverlapPolicy.BUFFER_ALL, "overlap.bufferAll"],
  [OverlapPolicy.CANCEL_OTHER, "overlap.cancelOther"],
  [OverlapPolicy.ALLOW, "overlap.allow"],
];

export const catchUps: [CatchUp, Key][] = [
  [CatchUp.NONE, "catchUp.none"],
  [CatchUp.LATEST, "catchUp.latest"],
  [CatchUp.ALL, "catchUp.all"],
];
