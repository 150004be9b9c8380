import { useQuery } from "@connectrpc/connect-query";
import { useDeferredValue } from "react";
import { FireTimeKind, ScheduleService } from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { t, useLanguage, type Key } from "../../i18n";
import { Exact, Status } from "../../ui/basic";
import { Failure } from "../../ui/state";
import type { timingOf } from "./editor";

const kinds: Partial<Record<FireTimeKind, Key>> = {
  [FireTimeKind.SHIFTED]: "kind.shifted",
  [FireTimeKind.FIRST_PASS]: "kind.first",
  [FireTimeKind.SECOND_PASS]: "kind.second",
};

/** Preview tells what the server makes of a timing: in words, and its next fire times on the clocks of the zone and of the viewer. */
export function Preview({ name, timing }: { name: string; timing: ReturnType<typeof timingOf> }) {
  const language = useLanguage();
  const asked = useDeferredValue(timing);
  const { data, error } = useQuery(
    ScheduleService.method.preview,
    { name: /^[\w.-]{1,100}$/.test(name) ? name : "", ...asked, count: 10, language },
    { enabled: asked.timing !== undefined, retry: false, placeholderData: (before) => before, staleTime: 10_000 },
  );
  if (error) return <Failure error={error} />;
  if (!data) return null;
  const zone = asked.timing?.case === "cron" ? asked.timeZone || "UTC" : "";
  return (
    <div className="notice" role="status">
      <div className="grow stack">
        <strong>{data.description}</strong>
        {data.warnings.map((warning) => (
          <Status key={warning} tone="warn">
            {warning}
          </Status>
        ))}
        <div className="scroll" role="region" tabIndex={0} aria-label={t("schedule.nextTimes")}>
          <table>
            <thead>
              <tr>
                {zone && <th scope="col">{zone}</th>}
                <th scope="col">{t("timing.viewer")}</th>
                <th scope="col">{t("timing.note")}</th>
              </tr>
            </thead>
            <tbody>
              {data.fireTimes.map((fire, i) => {
                const kind = kinds[fire.kind];
                return (
                  <tr key={i}>
                    {zone && <td>{fire.fireTime && <Exact at={fire.fireTime} zone={zone} />}</td>}
                    <td>{fire.fireTime && <Exact at={fire.fireTime} />}</td>
                    <td>{kind ? <Status tone="warn">{fire.note || t(kind)}</Status> : fire.note}</td>
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
        {data.fireTimes.length === 0 && <span>{t("timing.never")}</span>}
        {data.skipped.length > 0 && (
          <details>
            <summary>{t("timing.skipped", { n: data.skipped.length })}</summary>
            <ul>
              {data.skipped.slice(0, 20).map((skipped) => (
                <li key={skipped.localTime}>
                  <code>{skipped.localTime}</code> {skipped.reason}
                </li>
              ))}
            </ul>
          </details>
        )}
      </div>
    </div>
  );
}
