import { useQuery } from "@connectrpc/connect-query";
import { useState } from "react";
import { ScheduleChangeKind, ScheduleService } from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { number, t, type Key } from "../../i18n";
import { Panel, Time } from "../../ui/basic";
import { Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";

const kinds: Partial<Record<ScheduleChangeKind, Key>> = {
  [ScheduleChangeKind.CREATE]: "change.create",
  [ScheduleChangeKind.UPDATE]: "change.update",
  [ScheduleChangeKind.PAUSE]: "change.pause",
  [ScheduleChangeKind.RESUME]: "change.resume",
  [ScheduleChangeKind.DELETE]: "change.delete",
};

/** Changes are who changed a schedule, and what. */
export function Changes({ schedule }: { schedule: string }) {
  const [tokens, setTokens] = useState<string[]>([]);
  const query = useQuery(ScheduleService.method.listScheduleChanges, { schedule, pageSize: 100, pageToken: tokens.at(-1) ?? "" });
  return (
    <Panel title={t("schedule.tab.changes")}>
      <Loaded query={query}>
        {(data) => (
          <>
            <Table
              label={t("schedule.tab.changes")}
              rows={data.changes}
              id={(change) => change.id}
              columns={[
                { name: t("change.time"), cell: (change) => <Time at={change.time} /> },
                { name: t("change.what"), cell: (change) => t(kinds[change.kind] ?? "change.update") },
                { name: t("change.by"), cell: (change) => <span className="clip mono">{change.by}</span> },
                { name: t("schedule.version"), num: true, cell: (change) => number(change.version) },
                { name: t("change.fields"), cell: (change) => <span className="text">{change.fields.join(", ")}</span> },
                { name: t("schedule.note"), cell: (change) => <span className="text">{change.note}</span> },
              ]}
            />
            <div className="body">
              <Pager token={tokens} next={data.nextPageToken} go={setTokens} />
            </div>
          </>
        )}
      </Loaded>
    </Panel>
  );
}
