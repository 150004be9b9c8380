import { Link, useLocation } from "wouter";
import type { Schedule } from "../../gen/plinth/schedule/v1/schedule_pb.js";
import { t } from "../../i18n";
import { useSchedules } from "../../rpc/every";
import { Field, Head, Panel, Status, Time } from "../../ui/basic";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { pageOf, Table, Turns } from "../../ui/table";
import { Editor } from "./editor";
import { action, path, timing } from "./words";

/** Schedules is the list of schedules, with when each fires next. */
export default function Schedules() {
  const [, go] = useLocation();
  const [filter, setFilter] = useFilter(["q", "state", "new", "page"]);
  const query = useSchedules();
  const matches = (s: Schedule) =>
    s.name.toLowerCase().includes(filter.q.toLowerCase()) && (!filter.state || (filter.state === "paused") === (s.pause !== undefined));
  return (
    <div className="page">
      <Head title={t("nav.schedules")}>
        <button className="primary" onClick={() => setFilter({ new: "1" })}>
          {t("schedule.new")}
        </button>
      </Head>
      <div className="filters">
        <Field label={t("filter.name")}>
          <input type="search" value={filter.q} onChange={(e) => setFilter({ q: e.target.value, page: "" })} />
        </Field>
        <Field label={t("col.state")}>
          <select value={filter.state} onChange={(e) => setFilter({ state: e.target.value, page: "" })}>
            <option value="">{t("any")}</option>
            <option value="active">{t("schedule.fires")}</option>
            <option value="paused">{t("schedule.paused")}</option>
          </select>
        </Field>
      </div>
      <Panel>
        <Loaded query={query}>
          {(data) => {
            const rows = data.filter(matches);
            if (data.length === 0) {
              return (
                <Empty title={t("schedules.none")}>
                  <p>{t("schedules.none.hint")}</p>
                </Empty>
              );
            }
            return (
              <>
                {rows.length === 0 ? (
                  <Empty title={t("filter.none")} />
                ) : (
                  <Table
                    label={t("nav.schedules")}
                    rows={pageOf(rows, filter.page)}
                    id={(s) => s.name}
                    open={(s) => go(path(s.name))}
                    columns={[
                      {
                        name: t("col.name"),
                        cell: (s) => (
                          <>
                            <Link href={path(s.name)}>{s.name}</Link>
                            {s.builtIn && <span className="soft"> {t("schedule.builtIn")}</span>}
                          </>
                        ),
                      },
                      { name: t("col.state"), cell: (s) => <State of={s} /> },
                      { name: t("schedule.next"), cell: (s) => <Time at={s.nextFireTimes[0]} /> },
                      {
                        name: t("schedule.timing"),
                        cell: (s) => (
                          <>
                            <code>{timing(s)}</code> {s.timing.case === "cron" && <span className="soft">{s.timeZone || "UTC"}</span>}
                          </>
                        ),
                      },
                      { name: t("schedule.does"), cell: (s) => <span className="clip">{action(s)}</span> },
                    ]}
                  />
                )}
                <div className="body">
                  <Turns count={rows.length} page={filter.page} go={(page) => setFilter({ page })} />
                </div>
              </>
            );
          }}
        </Loaded>
      </Panel>
      {filter.new && <Editor close={() => setFilter({ new: "" })} />}
    </div>
  );
}

export function State({ of: s }: { of: Schedule }) {
  if (s.error) return <Status tone="bad">{t("schedule.error")}</Status>;
  if (s.pause) return <Status tone={s.pause.by === "service" ? "bad" : "warn"}>{t("schedule.paused")}</Status>;
  if (s.nextFireTimes.length === 0) return <Status tone="calm">{t("schedule.ended")}</Status>;
  return <Status tone="good">{t("schedule.fires")}</Status>;
}
