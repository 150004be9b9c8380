import { useMutation } from "@connectrpc/connect-query";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useLocation } from "wouter";
import {
  MessageService,
  type CreateQueueRequestSchema,
  type Queue,
  type UpdateQueueRequestSchema,
} from "../../gen/plinth/message/v1/message_pb.js";
import { t } from "../../i18n";
import { Field } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { FormDialog } from "../../ui/dialog";
import { parseSpan, writeSpan } from "../../ui/duration";
import { tell } from "../../ui/toast";

const editable = ["max_attempts", "min_backoff", "max_backoff", "dead_letter_retention", "bindings"];

/** PolicyEditor makes a queue, or changes the policy of one. */
export function PolicyEditor({ queue, close }: { queue?: Queue; close: () => void }) {
  const [, go] = useLocation();
  const client = useQueryClient();
  const create = useMutation(MessageService.method.createQueue);
  const update = useMutation(MessageService.method.updateQueue);
  const [name, setName] = useState(queue?.name ?? "");
  const [attempts, setAttempts] = useState(String(queue?.maxAttempts ?? 10));
  const [least, setLeast] = useState(queue ? writeSpan(queue.minBackoff) : "1 s");
  const [most, setMost] = useState(queue ? writeSpan(queue.maxBackoff) : "10 min");
  const [ttl, setTtl] = useState(queue ? writeSpan(queue.messageTtl) : "");
  const [length, setLength] = useState(queue && queue.maxLength > 0n ? String(queue.maxLength) : "");
  const [retention, setRetention] = useState(queue ? writeSpan(queue.deadLetterRetention) : "30 d");
  const [bindings, setBindings] = useState(queue?.bindings.map((b) => `${b.topic} ${b.pattern}`).join("\n") ?? "");

  const spans = { least, most, ttl, retention };
  const wrong = Object.entries(spans).find(([key, text]) => (text || key !== "ttl") && !parseSpan(text))?.[0];

  function policy() {
    return {
      name,
      maxAttempts: Number(attempts) || 0,
      ...optional("minBackoff", least),
      ...optional("maxBackoff", most),
      ...optional("deadLetterRetention", retention),
      bindings: bindings
        .split("\n")
        .map((line) => line.trim().split(/\s+/))
        .filter((words) => words[0])
        .map(([topic = "", pattern = "#"]) => ({ topic, pattern })),
    };
  }
  const created = (): MessageInitShape<typeof CreateQueueRequestSchema> => ({
    ...policy(),
    ...optional("messageTtl", ttl),
    maxLength: BigInt(length.replace(/\D/g, "") || "0"),
  });
  const updated = (): MessageInitShape<typeof UpdateQueueRequestSchema> => ({ ...policy(), updateMask: { paths: editable } });

  async function submit() {
    if (queue) await update.mutateAsync(updated());
    else await create.mutateAsync(created());
    await client.invalidateQueries();
    tell(t(queue ? "queue.changed" : "queue.created", { name }));
  }

  const spanHint = t("hint.span");
  return (
    <FormDialog
      title={queue ? t("queue.edit", { name: queue.name }) : t("queue.new")}
      action={queue ? t("action.save") : t("action.create")}
      submit={submit}
      close={close}
      done={queue ? close : () => go(`/queues/${encodeURIComponent(name)}`)}
      disabled={wrong !== undefined}
      extra={
        queue ? (
          <CopyAs method={MessageService.method.updateQueue} input={updated} />
        ) : (
          <CopyAs method={MessageService.method.createQueue} input={created} />
        )
      }
    >
      <div className="form">
        {!queue && (
          <Field label={t("col.name")} hint={t("queue.name.hint")} wide>
            <input required maxLength={128} pattern="[A-Za-z0-9][A-Za-z0-9._\-]*" value={name} onChange={(e) => setName(e.target.value)} />
          </Field>
        )}
        <Field label={t("queue.maxAttempts")} hint="1 – 1000">
          <input type="number" min={1} max={1000} required value={attempts} onChange={(e) => setAttempts(e.target.value)} />
        </Field>
        <Field label={t("queue.retention")} wrong={wrong === "retention" ? spanHint : undefined}>
          <input value={retention} onChange={(e) => setRetention(e.target.value)} />
        </Field>
        <Field label={t("queue.minBackoff")} wrong={wrong === "least" ? spanHint : undefined}>
          <input value={least} onChange={(e) => setLeast(e.target.value)} />
        </Field>
        <Field label={t("queue.maxBackoff")} wrong={wrong === "most" ? spanHint : undefined}>
          <input value={most} onChange={(e) => setMost(e.target.value)} />
        </Field>
        {!queue && (
          <>
            <Field label={t("queue.ttl")} hint={t("queue.fixed")} wrong={wrong === "ttl" ? spanHint : undefined}>
              <input value={ttl} placeholder={t("none")} onChange={(e) => setTtl(e.target.value)} />
            </Field>
            <Field label={t("queue.maxLength")} hint={t("queue.fixed")}>
              <input type="number" min={1} value={length} placeholder={t("none")} onChange={(e) => setLength(e.target.value)} />
            </Field>
          </>
        )}
        <Field label={t("queue.bindings")} hint={t("queue.bindings.hint")} wide>
          <textarea spellCheck={false} value={bindings} onChange={(e) => setBindings(e.target.value)} />
        </Field>
      </div>
    </FormDialog>
  );
}

function optional<N extends string>(name: N, text: string) {
  const span = parseSpan(text);
  return (span ? { [name]: span } : {}) as { [K in N]?: NonNullable<typeof span> };
}
