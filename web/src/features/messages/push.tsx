import { PushBreaker, type Queue } from "../../gen/plinth/message/v1/message_pb.js";
import { span, t, type Key } from "../../i18n";
import { Panel, Status, Time, type Tone } from "../../ui/basic";
import { seconds } from "../../ui/duration";

const breakers: Record<PushBreaker, [Key, Tone]> = {
  [PushBreaker.UNSPECIFIED]: ["push.unknown", "calm"], // No worker has told yet.
  [PushBreaker.CLOSED]: ["push.closed", "good"],
  [PushBreaker.OPEN]: ["push.opened", "bad"],
  [PushBreaker.HALF_OPEN]: ["push.halfOpen", "warn"],
};

/** PushState is where the workers push the messages of a queue to, and how that does. */
export function PushState({ queue: { push, pushStatus: status } }: { queue: Queue }) {
  if (!push) return null;
  const [word, tone] = breakers[status?.breaker ?? PushBreaker.UNSPECIFIED] ?? breakers[PushBreaker.UNSPECIFIED];
  return (
    <Panel title={t("push")}>
      <div className="body">
        <dl className="pairs">
          <dt>{t("push.url")}</dt>
          <dd className="mono text">{push.url}</dd>
          <dt>{t("push.breaker")}</dt>
          <dd>
            <Status tone={tone}>{t(word)}</Status>
          </dd>
          {status?.resumeTime && (
            <>
              <dt>{t("push.resume")}</dt>
              <dd>
                <Time at={status.resumeTime} />
              </dd>
            </>
          )}
          <dt>{t("push.concurrency")}</dt>
          <dd>{t("push.concurrency.of", { n: status?.outstanding ?? 0, most: status?.concurrency ?? 0 })}</dd>
          <dt>{t("push.latency")}</dt>
          <dd>{status?.latency ? span(seconds(status.latency)) : "–"}</dd>
          <dt>{t("push.success")}</dt>
          <dd>
            <Time at={status?.lastSuccessTime} />
          </dd>
          <dt>{t("push.error")}</dt>
          <dd className="text">
            {status?.lastError ? (
              <>
                {status.lastError} <span className="soft">(<Time at={status.lastErrorTime} />)</span>
              </>
            ) : (
              t("none")
            )}
          </dd>
        </dl>
      </div>
    </Panel>
  );
}
