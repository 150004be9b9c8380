import { useQuery } from "@connectrpc/connect-query";
import { useState } from "react";
import {
  DeadLetterOperationKind,
  DeadLetterOperationState,
  MessageService,
  type DeadLetterOperation,
} from "../../gen/plinth/message/v1/message_pb.js";
import { number, t } from "../../i18n";
import { often } from "../../rpc/client";
import { Panel, Status, Time } from "../../ui/basic";
import { Empty, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";

/** Operations are the redrives and purges of a queue, with who started them. */
export function Operations({ queue }: { queue: string }) {
  const [tokens, setTokens] = useState<string[]>([]);
  const query = useQuery(
    MessageService.method.listDeadLetterOperations,
    { queue, pageSize: 100, pageToken: tokens.at(-1) ?? "" },
    { refetchInterval: often },
  );
  return (
    <Panel title={t("queue.tab.operations")}>
      <Loaded query={query}>
        {(data) =>
          data.operations.length === 0 ? (
            <Empty title={t("operations.none")}>
              <p>{t("operations.none.hint")}</p>
            </Empty>
          ) : (
            <>
              <Table
                label={t("queue.tab.operations")}
                rows={data.operations}
                id={(op) => op.id}
                columns={[
                  { name: t("operation.begun"), cell: (op) => <Time at={op.createTime} /> },
                  { name: t("operation.kind"), cell: (op) => t(op.kind === DeadLetterOperationKind.PURGE ? "operation.purge" : "operation.redrive") },
                  { name: t("col.state"), cell: (op) => <State of={op} /> },
                  { name: t("operation.done"), num: true, cell: (op) => `${number(op.done)} / ${number(op.total)}` },
                  { name: t("operation.skipped"), num: true, cell: (op) => number(op.skipped) },
                  { name: t("operation.by"), cell: (op) => <span className="clip mono">{op.principal}</span> },
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
  );
}

function State({ of: { state } }: { of: DeadLetterOperation }) {
  switch (state) {
    case DeadLetterOperationState.DONE:
      return <Status tone="good">{t("operation.state.done")}</Status>;
    case DeadLetterOperationState.RUNNING:
      return <Status tone="busy">{t("operation.state.running")}</Status>;
    default:
      return <Status tone="calm">{t("operation.state.planned")}</Status>;
  }
}
