import { useQuery } from "@connectrpc/connect-query";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { useState } from "react";
import { MessageService, type DeadLetterFilterSchema } from "../../gen/plinth/message/v1/message_pb.js";
import { bytes, number, t } from "../../i18n";
import { often } from "../../rpc/client";
import { Field, Panel, Time } from "../../ui/basic";
import { moment } from "../../ui/duration";
import { Glance } from "../../ui/payload";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";
import { Bulk, type Choice } from "./bulk";
import { Letter } from "./letter";

/** DeadLetters are the messages that failed for good. They are chosen one by one, or by a filter, and sent back or removed. */
export function DeadLetters({ queue }: { queue: string }) {
  const [filter, setFilter] = useFilter(["reason", "from", "to", "letter"]);
  const [tokens, setTokens] = useState<string[]>([]);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [bulk, setBulk] = useState<{ kind: "redrive" | "purge"; choice: Choice } | null>(null);
  const start = moment(filter.from);
  const end = moment(filter.to);
  const wanted: MessageInitShape<typeof DeadLetterFilterSchema> = {
    reason: filter.reason,
    ...(start ? { startTime: start } : {}),
    ...(end ? { endTime: end } : {}),
  };
  const query = useQuery(
    MessageService.method.listDeadLetters,
    { queue, pageSize: 100, pageToken: tokens.at(-1) ?? "", filter: wanted },
    { refetchInterval: often, placeholderData: (before) => before },
  );
  const filtered = Boolean(filter.reason || start || end);
  // With a reason, a page may have none although the list goes on.
  const any = Boolean(query.data && (query.data.deadLetters.length || query.data.nextPageToken || tokens.length));

  function refine(change: Partial<typeof filter>) {
    setTokens([]);
    setChosen(new Set());
    setFilter(change);
  }
  const ids = [...chosen];
  const some: Choice = { ids };
  const matching: Choice = { filter: wanted, words: describe({ ...filter, from: start ? filter.from : "", to: end ? filter.to : "" }) };

  return (
    <>
      <div className="filters">
        <Field label={t("dead.filter.reason")}>
          <input type="search" maxLength={256} value={filter.reason} onChange={(e) => refine({ reason: e.target.value })} />
        </Field>
        <Field label={t("dead.filter.from")}>
          <input type="datetime-local" value={filter.from} onChange={(e) => refine({ from: e.target.value })} />
        </Field>
        <Field label={t("dead.filter.to")}>
          <input type="datetime-local" value={filter.to} onChange={(e) => refine({ to: e.target.value })} />
        </Field>
        {filtered && <button onClick={() => refine({ reason: "", from: "", to: "" })}>{t("filter.clear")}</button>}
      </div>
      <Panel
        title={chosen.size > 0 ? t("dead.chosen", { n: chosen.size }) : filtered ? t("dead.matching") : t("dead.all")}
        actions={
          <div className="row">
            {chosen.size > 0 ? (
              <>
                <button onClick={() => setBulk({ kind: "redrive", choice: some })}>{t("dead.redrive.chosen")}</button>
                <button className="danger" onClick={() => setBulk({ kind: "purge", choice: some })}>
                  {t("dead.purge.chosen")}
                </button>
              </>
            ) : (
              <>
                <button disabled={!any} onClick={() => setBulk({ kind: "redrive", choice: matching })}>
                  {filtered ? t("dead.redrive.matching") : t("dead.redrive.all")}
                </button>
                <button
                  className="danger"
                  disabled={!any}
                  onClick={() => setBulk({ kind: "purge", choice: matching })}
                >
                  {filtered ? t("dead.purge.matching") : t("dead.purge.all")}
                </button>
              </>
            )}
          </div>
        }
      >
        <Loaded query={query}>
          {(data) =>
            !any ? (
              <Empty title={filtered ? t("filter.none") : t("dead.none")}>{!filtered && <p>{t("dead.none.hint")}</p>}</Empty>
            ) : (
              <>
                <Table
                  label={t("queue.tab.dead")}
                  rows={data.deadLetters}
                  id={(letter) => letter.id}
                  open={(letter) => setFilter({ letter: letter.id })}
                  selection={{ ids: chosen, set: setChosen }}
                  nameOf={(letter) => letter.messageId}
                  columns={[
                    { name: t("dead.failed"), cell: (letter) => <Time at={letter.lastFailureTime} /> },
                    {
                      name: t("dead.reason"),
                      cell: (letter) => (
                        <button className="link" onClick={() => setFilter({ letter: letter.id })}>
                          <span className="clip">{letter.reason || t("dead.reason.none")}</span>
                        </button>
                      ),
                    },
                    { name: t("dead.attempts"), num: true, cell: (letter) => number(letter.attempts) },
                    { name: t("publish.payload"), cell: (letter) => <Glance data={letter.payload} /> },
                    { name: t("size"), num: true, wideOnly: true, cell: (letter) => bytes(letter.payload.length) },
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
      {filter.letter && <Letter id={filter.letter} queue={queue} close={() => setFilter({ letter: "" })} />}
      {bulk && (
        <Bulk
          queue={queue}
          {...bulk}
          close={(done) => {
            setBulk(null);
            if (done) setChosen(new Set());
          }}
        />
      )}
    </>
  );
}

function describe(filter: { reason: string; from: string; to: string }): string {
  return [
    filter.reason && t("dead.words.reason", { reason: filter.reason }),
    filter.from && t("dead.words.from", { time: filter.from.replace("T", " ") }),
    filter.to && t("dead.words.to", { time: filter.to.replace("T", " ") }),
  ]
    .filter(Boolean)
    .join(", ");
}
