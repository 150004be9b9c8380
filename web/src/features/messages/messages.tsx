import { useQuery } from "@connectrpc/connect-query";
import { useState } from "react";
import { MessageService, MessageView, type QueuedMessage } from "../../gen/plinth/message/v1/message_pb.js";
import { bytes, number, t } from "../../i18n";
import { often } from "../../rpc/client";
import { Exact, Field, Panel, Time } from "../../ui/basic";
import { CopyAs, CopyButton } from "../../ui/copy";
import { Dialog } from "../../ui/dialog";
import { Attributes, Glance, Payload } from "../../ui/payload";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";

/** Messages are those in the queue, and those that were pulled. They are looked at, and not taken. */
export function Messages({ queue }: { queue: string }) {
  const [filter, setFilter] = useFilter(["view"]);
  const [tokens, setTokens] = useState<string[]>([]);
  const [open, setOpen] = useState<QueuedMessage | null>(null);
  const view = filter.view === "pulled" ? MessageView.PULLED : MessageView.READY;
  const request = { queue, view, pageSize: 100, pageToken: tokens.at(-1) ?? "" };
  const query = useQuery(MessageService.method.listMessages, request, { refetchInterval: often, placeholderData: (before) => before });
  return (
    <>
      <div className="filters">
        <Field label={t("messages.view")}>
          <select
            value={filter.view}
            onChange={(e) => {
              setTokens([]);
              setFilter({ view: e.target.value });
            }}
          >
            <option value="">{t("messages.ready")}</option>
            <option value="pulled">{t("messages.pulled")}</option>
          </select>
        </Field>
      </div>
      <Panel title={t("queue.tab.messages")} actions={<CopyAs method={MessageService.method.listMessages} input={() => request} />}>
        <Loaded query={query}>
          {(data) =>
            data.messages.length === 0 ? (
              <Empty title={t("messages.none")} />
            ) : (
              <>
                <Table
                  label={t("queue.tab.messages")}
                  rows={data.messages}
                  id={(message) => message.id}
                  open={setOpen}
                  columns={[
                    { name: t("message.published"), cell: (message) => <Time at={message.publishTime} /> },
                    ...(view === MessageView.PULLED
                      ? [{ name: t("messages.lease"), cell: (message: QueuedMessage) => <Time at={message.dueTime} /> }]
                      : []),
                    {
                      name: t("publish.payload"),
                      cell: (message) => (
                        <button className="link" onClick={() => setOpen(message)}>
                          <Glance data={message.payload} />
                        </button>
                      ),
                    },
                    { name: t("waiting.attempts"), num: true, cell: (message) => number(message.attempts) },
                    { name: t("size"), num: true, wideOnly: true, cell: (message) => bytes(message.payload.length) },
                  ]}
                />
                <div className="body">
                  <Pager token={tokens} next={data.nextPageToken} go={setTokens} />
                </div>
              </>
            )
          }
        </Loaded>
      </Panel>
      {open && <One message={open} close={() => setOpen(null)} />}
    </>
  );
}

/** One is a message as it was when it was looked at. */
export function One({ message, close }: { message: QueuedMessage; close: () => void }) {
  return (
    <Dialog wide title={t("message.id")} close={close}>
      <Facts message={message} />
      <h3>{t("attributes")}</h3>
      <Attributes of={message.attributes} />
      <h3>{t("publish.payload")}</h3>
      <Payload data={message.payload} />
    </Dialog>
  );
}

export function Facts({ message }: { message: Pick<QueuedMessage, "id" | "publishTime" | "attempts" | "reason"> }) {
  return (
    <dl className="pairs">
      <dt>{t("message.id")}</dt>
      <dd className="mono">
        {message.id}
        <CopyButton text={message.id} />
      </dd>
      <dt>{t("message.published")}</dt>
      <dd>{message.publishTime && <Exact at={message.publishTime} />}</dd>
      <dt>{t("waiting.attempts")}</dt>
      <dd>{number(message.attempts)}</dd>
      {message.reason && (
        <>
          <dt>{t("dead.reason")}</dt>
          <dd className="text">{message.reason}</dd>
        </>
      )}
    </dl>
  );
}
