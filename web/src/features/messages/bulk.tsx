import { useMutation, useQuery } from "@connectrpc/connect-query";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import {
  DeadLetterOperationState,
  MessageService,
  type DeadLetterFilterSchema,
  type DeadLetterOperation,
} from "../../gen/plinth/message/v1/message_pb.js";
import { number, t } from "../../i18n";
import { Field } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Dialog } from "../../ui/dialog";
import { Failure, Waiting } from "../../ui/state";

/** Choice is which dead letters: some by their ids, or all that match a filter, which words tell. */
export type Choice = { ids: string[] } | { filter: MessageInitShape<typeof DeadLetterFilterSchema>; words: string };

/**
 * Bulk sends dead letters back, or removes them. The server first fixes and counts the set; what is confirmed is exactly that set,
 * whatever has failed meanwhile.
 */
export function Bulk({
  queue,
  kind,
  choice,
  close,
}: {
  queue: string;
  kind: "redrive" | "purge";
  choice: Choice;
  close: (done: boolean) => void;
}) {
  const client = useQueryClient();
  const redrive = useMutation(MessageService.method.redriveDeadLetters);
  const purge = useMutation(MessageService.method.purgeDeadLetters);
  const plan = kind === "redrive" ? redrive : purge;
  const [pace, setPace] = useState("");
  const [planned, setPlanned] = useState<{ count: bigint; token: string; skipped: { reason: string; count: bigint }[] } | null>(null);
  const [operation, setOperation] = useState<DeadLetterOperation | null>(null);
  const [error, setError] = useState<unknown>(null);
  const asked = useRef(false);

  async function ask() {
    setError(null);
    try {
      const chosen = "ids" in choice ? { ids: choice.ids } : { filter: choice.filter };
      setPlanned(await plan.mutateAsync({ queue, ...chosen, dryRun: true }));
    } catch (failure) {
      setError(failure);
    }
  }
  useEffect(() => {
    if (asked.current) return;
    asked.current = true;
    void ask();
  });

  const token = planned?.token ?? "";
  const maxPerSecond = Number(pace) || 0;
  async function run() {
    setError(null);
    try {
      const { operation } = kind === "redrive" ? await redrive.mutateAsync({ queue, token, maxPerSecond }) : await purge.mutateAsync({ queue, token });
      if (operation) setOperation(operation);
      await client.invalidateQueries();
    } catch (failure) {
      setError(failure);
    }
  }

  const title = t(kind === "redrive" ? "bulk.redrive" : "bulk.purge", { queue });
  return (
    <Dialog title={title} close={() => close(operation !== null)}>
      {error !== null && <Failure error={error} retry={planned ? undefined : ask} />}
      {!planned && error === null && <Waiting />}
      {planned && !operation && (
        <>
          <p>
            {t(kind === "redrive" ? "bulk.redrive.count" : "bulk.purge.count", { n: planned.count })}{" "}
            {"words" in choice && choice.words ? t("bulk.which", { words: choice.words }) : ""}
          </p>
          <p className="soft">{t("bulk.exact")}</p>
          {planned.skipped.map((skipped) => (
            <p key={skipped.reason} className="notice warn">
              {t(skipped.reason === "in_operation" ? "bulk.skipped.busy" : "bulk.skipped.gone", { n: skipped.count })}
            </p>
          ))}
          {"ids" in choice && (
            <details>
              <summary>{t("bulk.ids")}</summary>
              <ul className="payload mono">
                {choice.ids.map((id) => (
                  <li key={id}>{id}</li>
                ))}
              </ul>
            </details>
          )}
          {kind === "redrive" && (
            <Field label={t("bulk.pace")} hint={t("bulk.pace.hint")}>
              <input type="number" min={0} max={100000} value={pace} placeholder="0" onChange={(e) => setPace(e.target.value)} />
            </Field>
          )}
          <footer>
            {kind === "redrive" ? (
              <CopyAs method={MessageService.method.redriveDeadLetters} input={() => ({ queue, token, maxPerSecond })} />
            ) : (
              <CopyAs method={MessageService.method.purgeDeadLetters} input={() => ({ queue, token })} />
            )}
            <button onClick={() => close(false)}>{t("action.cancel")}</button>
            <button
              className={kind === "purge" ? "danger primary" : "primary"}
              disabled={planned.count === 0n || plan.isPending}
              onClick={() => void run()}
            >
              {t(kind === "redrive" ? "bulk.redrive.go" : "bulk.purge.go", { n: planned.count })}
            </button>
          </footer>
        </>
      )}
      {operation && (
        <>
          <Progress operation={operation} />
          <footer>
            <button className="primary" onClick={() => close(true)}>
              {t("action.close")}
            </button>
          </footer>
        </>
      )}
    </Dialog>
  );
}

/** Progress follows an operation until it is done. */
export function Progress({ operation: begun }: { operation: DeadLetterOperation }) {
  const client = useQueryClient();
  const { data, error } = useQuery(
    MessageService.method.getDeadLetterOperation,
    { id: begun.id },
    { refetchInterval: (query) => (query.state.data?.state === DeadLetterOperationState.DONE ? false : 1000) },
  );
  const operation = data ?? begun;
  const done = operation.state === DeadLetterOperationState.DONE;
  useEffect(() => {
    if (done) void client.invalidateQueries();
  }, [done, client]);
  const past = operation.done + operation.skipped;
  return (
    <div className="stack" role="status">
      {error && <Failure error={error} />}
      <progress aria-label={t("bulk.progress")} max={Number(operation.total) || 1} value={Number(past)} />
      <p>
        {done ? t("bulk.done", { n: operation.done }) : t("bulk.running", { n: operation.done, all: operation.total })}
        {operation.skipped > 0n && ` ${t("bulk.gone", { n: number(operation.skipped) })}`}
      </p>
    </div>
  );
}
