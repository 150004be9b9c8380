import { useMutation, useQuery } from "@connectrpc/connect-query";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { MessageService, type DeadLetter, type PublishRequestSchema } from "../../gen/plinth/message/v1/message_pb.js";
import { number, t } from "../../i18n";
import { parseAttributes, writeAttributes } from "../../ui/attributes";
import { Check, Exact, Field, Time } from "../../ui/basic";
import { CopyAs, CopyButton } from "../../ui/copy";
import { Dialog } from "../../ui/dialog";
import { Attributes, decode, Payload } from "../../ui/payload";
import { Failure, Loaded } from "../../ui/state";
import { tell, tellError } from "../../ui/toast";
import { Bulk } from "./bulk";

/** Letter is one dead letter: why it failed, and what is in it. */
export function Letter({ id, queue, close }: { id: string; queue: string; close: () => void }) {
  const client = useQueryClient();
  const query = useQuery(MessageService.method.getDeadLetter, { id }, { retry: false });
  const redrive = useMutation(MessageService.method.redriveDeadLetters);
  const [editing, setEditing] = useState(false);
  const [purging, setPurging] = useState(false);

  async function back() {
    try {
      await redrive.mutateAsync({ queue, ids: [id] });
      tell(t("dead.redriven"));
      close();
      await client.invalidateQueries();
    } catch (error) {
      tellError(error);
    }
  }

  if (purging) return <Bulk queue={queue} kind="purge" choice={{ ids: [id] }} close={(done) => (done ? close() : setPurging(false))} />;
  return (
    <Dialog wide title={t("dead.one")} close={close}>
      <Loaded query={query}>
        {(letter) =>
          editing ? (
            <Edit letter={letter} close={() => setEditing(false)} done={close} />
          ) : (
            <>
              <dl className="pairs">
                <dt>{t("message.id")}</dt>
                <dd className="mono">
                  {letter.messageId}
                  <CopyButton text={letter.messageId} />
                </dd>
                <dt>{t("dead.reason")}</dt>
                <dd className="text">{letter.reason || t("dead.reason.none")}</dd>
                <dt>{t("dead.attempts")}</dt>
                <dd>{number(letter.attempts)}</dd>
                <dt>{t("dead.first")}</dt>
                <dd>{letter.firstFailureTime && <Exact at={letter.firstFailureTime} />}</dd>
                <dt>{t("dead.last")}</dt>
                <dd>
                  {letter.lastFailureTime && <Exact at={letter.lastFailureTime} />} (<Time at={letter.lastFailureTime} />)
                </dd>
                <dt>{t("message.published")}</dt>
                <dd>{letter.publishTime && <Exact at={letter.publishTime} />}</dd>
              </dl>
              <h3>{t("attributes")}</h3>
              <Attributes of={letter.attributes} />
              <h3>{t("publish.payload")}</h3>
              <Payload data={letter.payload} />
              <footer>
                <CopyAs method={MessageService.method.redriveDeadLetters} input={() => ({ queue, ids: [id] })} />
                <button className="danger" onClick={() => setPurging(true)}>
                  {t("dead.purge")}
                </button>
                <button disabled={decode(letter.payload) === undefined} onClick={() => setEditing(true)}>
                  {t("dead.edit")}
                </button>
                <button className="primary" disabled={redrive.isPending} onClick={() => void back()}>
                  {t("dead.redrive")}
                </button>
              </footer>
            </>
          )
        }
      </Loaded>
    </Dialog>
  );
}

/** Edit publishes what a dead letter would have been. The dead letter stays, unless it is to go. */
function Edit({ letter, close, done }: { letter: DeadLetter; close: () => void; done: () => void }) {
  const client = useQueryClient();
  const publish = useMutation(MessageService.method.publish);
  const purge = useMutation(MessageService.method.purgeDeadLetters);
  const before = decode(letter.payload) ?? "";
  const beforeAttributes = writeAttributes(letter.attributes);
  const [text, setText] = useState(before);
  const [lines, setLines] = useState(beforeAttributes);
  const [remove, setRemove] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const attributes = parseAttributes(lines);
  // The key makes a second click harmless: the message is published once.
  const [key] = useState(() => crypto.randomUUID());
  const request = (): MessageInitShape<typeof PublishRequestSchema> => ({
    queue: letter.queue,
    payload: { case: "message", value: text },
    attributes: typeof attributes === "number" ? {} : attributes,
    idempotencyKey: key,
  });

  async function submit() {
    setError(null);
    try {
      const { id } = await publish.mutateAsync(request());
      if (remove) await purge.mutateAsync({ queue: letter.queue, ids: [letter.id] });
      tell(t("dead.edited", { id }));
      done();
      await client.invalidateQueries();
    } catch (failure) {
      setError(failure);
    }
  }

  return (
    <>
      <p className="soft">{t("dead.edit.what")}</p>
      <Field label={t("publish.payload")}>
        <textarea spellCheck={false} rows={8} value={text} onChange={(e) => setText(e.target.value)} />
      </Field>
      <Field label={t("attributes")} wrong={typeof attributes === "number" ? t("attributes.wrong", { n: attributes }) : undefined}>
        <textarea spellCheck={false} rows={3} value={lines} onChange={(e) => setLines(e.target.value)} />
      </Field>
      <h3>{t("diff")}</h3>
      <Diff before={`${before}\n\n${beforeAttributes}`} after={`${text}\n\n${lines}`} />
      <Check label={t("dead.edit.remove")} checked={remove} onChange={setRemove} />
      {error !== null && <Failure error={error} />}
      <footer>
        <CopyAs method={MessageService.method.publish} input={request} />
        <button onClick={close}>{t("action.back")}</button>
        <button className="primary" disabled={publish.isPending || purge.isPending || typeof attributes === "number"} onClick={() => void submit()}>
          {t("dead.edit.go")}
        </button>
      </footer>
    </>
  );
}

/** Diff shows which lines differ: what both texts begin and end with stays as it is. */
function Diff({ before, after }: { before: string; after: string }) {
  if (before === after) return <p className="soft">{t("diff.none")}</p>;
  const a = before.split("\n");
  const b = after.split("\n");
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const around = 3;
  return (
    <pre className="payload diff" role="region" tabIndex={0} aria-label={t("diff")}>
      {a.slice(Math.max(0, head - around), head).map((line, i) => (
        <span key={`h${i}`}>{`  ${line.slice(0, 2000)}`}</span>
      ))}
      {a.slice(head, a.length - tail).map((line, i) => (
        <del key={`a${i}`}>{`- ${line.slice(0, 2000)}`}</del>
      ))}
      {b.slice(head, b.length - tail).map((line, i) => (
        <ins key={`b${i}`}>{`+ ${line.slice(0, 2000)}`}</ins>
      ))}
      {a.slice(a.length - tail, a.length - tail + around).map((line, i) => (
        <span key={`t${i}`}>{`  ${line.slice(0, 2000)}`}</span>
      ))}
    </pre>
  );
}
