import { useMutation, useQuery, skipToken } from "@connectrpc/connect-query";
import { Code, ConnectError } from "@connectrpc/connect";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, type FormEvent } from "react";
import { MessageService, MessageView, type Queue, type WaitingMessage } from "../../gen/plinth/message/v1/message_pb.js";
import { number, t } from "../../i18n";
import { often } from "../../rpc/client";
import { Exact, Field, Panel, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Destroy } from "../../ui/dialog";
import { Attributes, Glance, Payload } from "../../ui/payload";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";
import { tell } from "../../ui/toast";

/** Waiting are the messages that wait for their time. They are found in the list or by their id, and cancelled. */
export function Waiting({ queue }: { queue: Queue }) {
  const [filter, setFilter] = useFilter(["id"]);
  const [text, setText] = useState(filter.id);
  useEffect(() => setText(filter.id), [filter.id]); // One may have gone back.
  const query = useQuery(MessageService.method.getMessage, filter.id ? { id: filter.id } : skipToken, { retry: false });
  function submit(event: FormEvent) {
    event.preventDefault();
    setFilter({ id: text.trim() });
  }
  function show(id: string) {
    setText(id);
    setFilter({ id });
  }
  return (
    <>
      <p className="soft">{t("waiting.what", { n: number(queue.waiting ?? 0n) })}</p>
      <form className="filters" onSubmit={submit}>
        <Field label={t("waiting.id")}>
          <input type="search" value={text} placeholder="0199…" onChange={(e) => setText(e.target.value)} />
        </Field>
        <button>{t("action.find")}</button>
        {filter.id && (
          <button type="button" onClick={() => show("")}>
            {t("waiting.all")}
          </button>
        )}
      </form>
      {filter.id ? (
        <Loaded query={query}>{(message) => <One message={message} done={() => show("")} />}</Loaded>
      ) : (
        <All queue={queue.name} show={show} />
      )}
    </>
  );
}

function All({ queue, show }: { queue: string; show: (id: string) => void }) {
  const [tokens, setTokens] = useState<string[]>([]);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [asked, setAsked] = useState(false);
  const query = useQuery(
    MessageService.method.listMessages,
    { queue, view: MessageView.WAITING, pageSize: 100, pageToken: tokens.at(-1) ?? "" },
    { refetchInterval: often, placeholderData: (before) => before },
  );
  return (
    <Panel
      title={chosen.size > 0 ? t("dead.chosen", { n: chosen.size }) : t("queue.tab.waiting")}
      actions={
        <button className="danger" disabled={chosen.size === 0} onClick={() => setAsked(true)}>
          {t("waiting.cancel.chosen")}
        </button>
      }
    >
      <Loaded query={query}>
        {(data) =>
          data.messages.length === 0 ? (
            <Empty title={t("waiting.none")} />
          ) : (
            <>
              <Table
                label={t("queue.tab.waiting")}
                rows={data.messages}
                id={(message) => message.id}
                open={(message) => show(message.id)}
                selection={{ ids: chosen, set: setChosen }}
                columns={[
                  { name: t("waiting.due"), cell: (message) => <Time at={message.dueTime} /> },
                  {
                    name: t("publish.payload"),
                    cell: (message) => (
                      <button className="link" onClick={() => show(message.id)}>
                        <Glance data={message.payload} />
                      </button>
                    ),
                  },
                  { name: t("waiting.attempts"), num: true, cell: (message) => number(message.attempts) },
                  { name: t("dead.reason"), cell: (message) => <span className="clip">{message.reason}</span> },
                ]}
              />
              <div className="body">
                <Pager token={tokens} next={data.nextPageToken} go={setTokens} />
              </div>
            </>
          )
        }
      </Loaded>
      {asked && (
        <Cancel
          ids={[...chosen]}
          close={() => setAsked(false)}
          done={() => {
            setAsked(false);
            setChosen(new Set());
          }}
        />
      )}
    </Panel>
  );
}

/** Cancel removes messages, and tells how many of them had their time meanwhile. */
function Cancel({ ids, close, done }: { ids: string[]; close: () => void; done: () => void }) {
  const client = useQueryClient();
  const cancel = useMutation(MessageService.method.cancelMessage);
  const [first = ""] = ids;
  return (
    <Destroy
      title={t("waiting.cancel.title")}
      name={first}
      action={t("waiting.cancel.go", { n: ids.length })}
      close={close}
      extra={ids.length === 1 ? <CopyAs method={MessageService.method.cancelMessage} input={() => ({ id: first })} /> : undefined}
      submit={async () => {
        let late = 0;
        for (const id of ids) {
          try {
            await cancel.mutateAsync({ id });
          } catch (error) {
            if (![Code.NotFound, Code.FailedPrecondition].includes(ConnectError.from(error).code)) throw error;
            late++;
          }
        }
        if (late < ids.length) tell(ids.length === 1 ? t("waiting.cancelled") : t("waiting.cancelled.n", { n: ids.length - late }));
        if (late > 0) tell(t("waiting.late", { n: late }), true);
        done();
        await client.invalidateQueries();
      }}
    >
      {t("waiting.cancel.what", { id: ids.join(", ") })}
    </Destroy>
  );
}

function One({ message, done }: { message: WaitingMessage; done: () => void }) {
  const [asked, setAsked] = useState(false);
  return (
    <Panel
      title={message.id}
      actions={
        <button className="danger" onClick={() => setAsked(true)}>
          {t("waiting.cancel")}
        </button>
      }
    >
      <div className="body">
        <dl className="pairs">
          <dt>{message.topic ? t("topic") : t("queue")}</dt>
          <dd>{message.topic ? `${message.topic} ${message.routingKey}` : message.queue}</dd>
          <dt>{t("waiting.due")}</dt>
          <dd>
            {message.deliverTime && <Exact at={message.deliverTime} />} (<Time at={message.deliverTime} />)
          </dd>
          <dt>{t("waiting.attempts")}</dt>
          <dd>{number(message.attempts)}</dd>
          {message.reason && (
            <>
              <dt>{t("dead.reason")}</dt>
              <dd className="text">{message.reason}</dd>
            </>
          )}
        </dl>
        <Attributes of={message.attributes} />
        <Payload data={message.payload} />
      </div>
      {asked && <Cancel ids={[message.id]} close={() => setAsked(false)} done={done} />}
    </Panel>
  );
}
