import { useMutation } from "@connectrpc/connect-query";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";
import { MessageService, type PublishRequestSchema } from "../../gen/plinth/message/v1/message_pb.js";
import { t } from "../../i18n";
import { useSession } from "../../rpc/session";
import { parseAttributes } from "../../ui/attributes";
import { Field, Panel } from "../../ui/basic";
import { CopyAs, CopyButton } from "../../ui/copy";
import { parseSpan } from "../../ui/duration";
import { Failure } from "../../ui/state";
import { tabStorage } from "../../storage";

interface Draft {
  text: string;
  attributes: string;
  delay: string;
  key: string;
}

/** Publish sends a message to the queue. The tab remembers what was sent last. */
export function Publish({ queue }: { queue: string }) {
  const { tenant } = useSession();
  const item = `plinth.publish.${tenant}.${queue}`;
  const [draft, setDraft] = useState<Draft>(() => {
    try {
      return { text: "", attributes: "", delay: "", key: "", ...(JSON.parse(tabStorage.getItem(item) ?? "{}") as Partial<Draft>) };
    } catch {
      return { text: "", attributes: "", delay: "", key: "" };
    }
  });
  const client = useQueryClient();
  const publish = useMutation(MessageService.method.publish);
  const attributes = parseAttributes(draft.attributes);
  const delay = parseSpan(draft.delay);
  const json = /^\s*[[{]/.test(draft.text) ? fault(draft.text) : "";

  const request = (): MessageInitShape<typeof PublishRequestSchema> => ({
    queue,
    payload: { case: "message", value: draft.text },
    attributes: typeof attributes === "number" ? {} : attributes,
    idempotencyKey: draft.key,
    ...(delay ? { when: { case: "delay" as const, value: delay } } : {}),
  });

  function edit(change: Partial<Draft>) {
    const to = { ...draft, ...change };
    setDraft(to);
    tabStorage.setItem(item, JSON.stringify(to));
  }

  function submit(event: FormEvent) {
    event.preventDefault();
    publish.mutate(request(), { onSuccess: () => void client.invalidateQueries() });
  }

  return (
    <Panel title={t("publish")} actions={<CopyAs method={MessageService.method.publish} input={request} />}>
      <form className="body" onSubmit={submit}>
        <div className="form">
          <Field label={t("publish.payload")} hint={json ? t("publish.notJson", { why: json }) : t("publish.payload.hint")} wide>
            <textarea spellCheck={false} value={draft.text} onChange={(e) => edit({ text: e.target.value })} />
          </Field>
          <Field
            label={t("attributes")}
            hint={t("attributes.hint")}
            wrong={typeof attributes === "number" ? t("attributes.wrong", { n: attributes }) : undefined}
            wide
          >
            <textarea spellCheck={false} rows={3} value={draft.attributes} onChange={(e) => edit({ attributes: e.target.value })} />
          </Field>
          <Field label={t("publish.delay")} hint={t("publish.delay.hint")} wrong={draft.delay && !delay ? t("hint.span") : undefined}>
            <input value={draft.delay} placeholder={t("publish.now")} onChange={(e) => edit({ delay: e.target.value })} />
          </Field>
          <Field label={t("publish.key")} hint={t("publish.key.hint")}>
            <input value={draft.key} maxLength={255} onChange={(e) => edit({ key: e.target.value })} />
          </Field>
        </div>
        <div className="row">
          <button className="primary" disabled={publish.isPending || typeof attributes === "number" || (draft.delay !== "" && !delay)}>
            {t("publish")}
          </button>
          {publish.data && (
            <span role="status">
              {publish.data.duplicate ? t("publish.duplicate") : t("publish.done")} <code>{publish.data.id}</code>
              <CopyButton text={publish.data.id} />
            </span>
          )}
        </div>
        {publish.error && <Failure error={publish.error} />}
      </form>
    </Panel>
  );
}

function fault(text: string): string {
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return error instanceof Error ? error.message : "";
  }
}
