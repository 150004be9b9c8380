import { useMutation } from "@connectrpc/connect-query";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useLocation } from "wouter";
import { TenantService, type Tenant } from "../../gen/plinth/tenant/v1/tenant_pb.js";
import { t } from "../../i18n";
import { useTenants } from "../../rpc/every";
import { Field, Head, Panel, Status, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { FormDialog } from "../../ui/dialog";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { pageOf, Table, Turns } from "../../ui/table";
import { tell } from "../../ui/toast";

export function path(tenant: string): string {
  return `/tenants/${encodeURIComponent(tenant)}`;
}

/** Tenants is the list of tenants. It is for administrators. */
export default function Tenants() {
  const [, go] = useLocation();
  const [filter, setFilter] = useFilter(["q", "new", "page"]);
  const query = useTenants();
  return (
    <div className="page">
      <Head title={t("nav.tenants")}>
        <button className="primary" onClick={() => setFilter({ new: "1" })}>
          {t("tenant.new")}
        </button>
      </Head>
      <div className="filters">
        <Field label={t("filter.name")}>
          <input type="search" value={filter.q} onChange={(e) => setFilter({ q: e.target.value, page: "" })} />
        </Field>
      </div>
      <Panel>
        <Loaded query={query}>
          {(data) => {
            const rows = data.filter((one) => `${one.name} ${one.displayName}`.toLowerCase().includes(filter.q.toLowerCase()));
            if (rows.length === 0) return <Empty title={t("filter.none")} />;
            return (
              <>
                <Table
                  label={t("nav.tenants")}
                  rows={pageOf(rows, filter.page)}
                  id={(one) => one.name}
                  open={(one) => go(path(one.name))}
                  columns={[
                    { name: t("col.name"), cell: (one) => <Link href={path(one.name)}>{one.name}</Link> },
                    { name: t("tenant.displayName"), cell: (one) => <span className="clip">{one.displayName}</span> },
                    { name: t("col.state"), cell: (one) => <State of={one} /> },
                    { name: t("tenant.rate"), cell: (one) => one.rateLimit || t("timing.default") },
                    { name: t("col.created"), cell: (one) => <Time at={one.createTime} /> },
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
      {filter.new && <Create close={() => setFilter({ new: "" })} />}
    </div>
  );
}

export function State({ of: one }: { of: Tenant }) {
  if (one.deleteTime) return <Status tone="bad">{t("tenant.deleting")}</Status>;
  if (one.disabled) return <Status tone="warn">{t("tenant.disabled")}</Status>;
  return <Status tone="good">{t("tenant.enabled")}</Status>;
}

function Create({ close }: { close: () => void }) {
  const [, go] = useLocation();
  const client = useQueryClient();
  const create = useMutation(TenantService.method.createTenant);
  const [name, setName] = useState("");
  const [displayName, setDisplayName] = useState("");
  const [rateLimit, setRateLimit] = useState("");
  const request = () => ({ name, displayName, rateLimit });
  return (
    <FormDialog
      title={t("tenant.new")}
      action={t("action.create")}
      close={close}
      extra={<CopyAs method={TenantService.method.createTenant} input={request} />}
      submit={async () => {
        await create.mutateAsync(request());
        await client.invalidateQueries();
        tell(t("queue.created", { name }));
      }}
      done={() => go(path(name))}
    >
      <div className="form">
        <Field label={t("col.name")} hint={t("tenant.name.hint")}>
          <input required pattern="[a-z][a-z0-9\-]{0,62}" value={name} onChange={(e) => setName(e.target.value)} />
        </Field>
        <Field label={t("tenant.displayName")}>
          <input maxLength={200} value={displayName} onChange={(e) => setDisplayName(e.target.value)} />
        </Field>
        <Field label={t("tenant.rate")} hint={t("tenant.rate.hint")}>
          <input pattern="[1-9][0-9]{0,8}/[smh]" value={rateLimit} placeholder={t("timing.default")} onChange={(e) => setRateLimit(e.target.value)} />
        </Field>
      </div>
    </FormDialog>
  );
}
