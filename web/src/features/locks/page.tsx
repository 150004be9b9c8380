import { useMutation, useQuery } from "@connectrpc/connect-query";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { LockService, type Lock } from "../../gen/plinth/lock/v1/lock_pb.js";
import { number, t } from "../../i18n";
import { useLocks } from "../../rpc/every";
import { useSession } from "../../rpc/session";
import { Field, Head, Panel, Status, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { FormDialog } from "../../ui/dialog";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { Pager, pageOf, Table, Turns } from "../../ui/table";
import { tell } from "../../ui/toast";

/** Locks are who has which lock, since when, and how many wait for it. */
export default function Locks() {
  const { admin } = useSession();
  const [filter, setFilter] = useFilter(["q", "page"]);
  const [taken, setTaken] = useState<Lock | null>(null);
  const query = useLocks();
  return (
    <div className="page">
      <Head title={t("nav.locks")} />
      <div className="filters">
        <Field label={t("filter.name")}>
          <input type="search" value={filter.q} onChange={(e) => setFilter({ q: e.target.value, page: "" })} />
        </Field>
      </div>
      <Panel title={t("locks.held")}>
        <Loaded query={query}>
          {(data) => {
            const rows = data.filter((lock) => lock.name.toLowerCase().includes(filter.q.toLowerCase()));
            if (rows.length === 0) {
              return (
                <Empty title={data.length > 0 ? t("filter.none") : t("locks.none")}>
                  {data.length === 0 && <p>{t("locks.none.hint")}</p>}
                </Empty>
              );
            }
            return (
              <>
                <Table
                  label={t("locks.held")}
                  rows={pageOf(rows, filter.page)}
                  id={(lock) => lock.name}
                  columns={[
                    { name: t("col.name"), cell: (lock) => <span className="clip mono">{lock.name}</span> },
                    { name: t("lock.owner"), cell: (lock) => <span className="clip">{lock.owner}</span> },
                    { name: t("lock.holder"), wideOnly: true, cell: (lock) => <span className="clip mono">{lock.holder}</span> },
                    { name: t("lock.since"), cell: (lock) => <Time at={lock.acquireTime} /> },
                    { name: t("lock.until"), cell: (lock) => <Time at={lock.expireTime} /> },
                    {
                      name: t("lock.waiters"),
                      num: true,
                      cell: (lock) => (lock.waiters > 0n ? <Status tone="warn">{number(lock.waiters)}</Status> : "0"),
                    },
                    { name: t("lock.token"), num: true, wideOnly: true, cell: (lock) => number(lock.fencingToken) },
                    ...(admin
                      ? [
                          {
                            name: t("col.action"),
                            cell: (lock: Lock) => (
                              <button className="danger" aria-label={`${t("lock.force")} ${lock.name}`} onClick={() => setTaken(lock)}>
                                {t("lock.force")}
                              </button>
                            ),
                          },
                        ]
                      : []),
                  ]}
                />
                <div className="body">
                  <Turns count={rows.length} page={filter.page} go={(page) => setFilter({ page })} />
                </div>
              </>
            );
          }}
        </Loaded>
      </Panel>
      <Forced />
      {taken && <Force lock={taken} close={() => setTaken(null)} />}
    </div>
  );
}

function Force({ lock, close }: { lock: Lock; close: () => void }) {
  const client = useQueryClient();
  const force = useMutation(LockService.method.forceRelease);
  const [reason, setReason] = useState("");
  const request = () => ({ name: lock.name, reason });
  return (
    <FormDialog
      danger
      title={t("lock.force.title", { name: lock.name })}
      action={t("lock.force")}
      disabled={reason.trim() === ""}
      close={close}
      extra={<CopyAs method={LockService.method.forceRelease} input={request} />}
      submit={async () => {
        await force.mutateAsync(request());
        await client.invalidateQueries();
        tell(t("lock.forced", { name: lock.name }));
      }}
    >
      <p>{t("lock.force.what", { owner: lock.owner || lock.holder, waiters: lock.waiters })}</p>
      <Field label={t("lock.reason")} hint={t("lock.reason.hint")}>
        <input required maxLength={1000} value={reason} onChange={(e) => setReason(e.target.value)} />
      </Field>
    </FormDialog>
  );
}

/** Forced is the record of the locks that were taken away. */
function Forced() {
  const [tokens, setTokens] = useState<string[]>([]);
  const query = useQuery(LockService.method.listForcedReleases, { pageSize: 50, pageToken: tokens.at(-1) ?? "" });
  return (
    <Panel title={t("locks.forced")}>
      <Loaded query={query}>
        {(data) =>
          data.forcedReleases.length === 0 ? (
            <Empty title={t("locks.forced.none")} />
          ) : (
            <>
              <Table
                label={t("locks.forced")}
                rows={data.forcedReleases}
                id={(one) => one.id}
                columns={[
                  { name: t("change.time"), cell: (one) => <Time at={one.releaseTime} /> },
                  { name: t("col.name"), cell: (one) => <span className="clip mono">{one.name}</span> },
                  { name: t("lock.owner"), cell: (one) => <span className="clip">{one.owner || one.holder}</span> },
                  { name: t("change.by"), cell: (one) => <span className="clip mono">{one.principal}</span> },
                  { name: t("lock.reason"), cell: (one) => <span className="text">{one.reason}</span> },
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
