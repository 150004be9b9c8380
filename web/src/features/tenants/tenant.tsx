import { useMutation, useQuery } from "@connectrpc/connect-query";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useLocation } from "wouter";
import { TenantService, type Tenant as TenantMessage } from "../../gen/plinth/tenant/v1/tenant_pb.js";
import { number, t } from "../../i18n";
import { often } from "../../rpc/client";
import { actFor, useSession } from "../../rpc/session";
import { Check, Fact, Field, Head, Panel, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Destroy, FormDialog } from "../../ui/dialog";
import { Empty, Loaded } from "../../ui/state";
import { tell } from "../../ui/toast";
import { Keys } from "./keys";
import { State } from "./list";

/** Tenant is one tenant: its quotas with their use, and its keys. */
export default function Tenant({ name }: { name: string }) {
  const session = useSession();
  const query = useQuery(TenantService.method.getTenant, { name }, { refetchInterval: often });
  const acting = (session.tenant || "default") === name;
  return (
    <div className="page">
      <Head title={name} crumbs={<Link href="/tenants">{t("nav.tenants")}</Link>}>
        <button disabled={acting} onClick={() => actFor(name === "default" ? "" : name)}>
          {acting ? t("tenant.acting") : t("tenant.act")}
        </button>
        {query.data && <Actions tenant={query.data} />}
      </Head>
      <Loaded query={query}>
        {(tenant) => (
          <>
            <dl className="facts">
              <Fact name={t("col.state")} small>
                <State of={tenant} />
              </Fact>
              <Fact name={t("tenant.displayName")} small>
                {tenant.displayName || "–"}
              </Fact>
              <Fact name={t("tenant.rate")} small>
                {tenant.rateLimit || t("timing.default")}
              </Fact>
              <Fact name={t("col.created")} small>
                <Time at={tenant.createTime} />
              </Fact>
              {tenant.deleteTime && <Fact name={t("tenant.remaining")}>{number(tenant.remainingRows)}</Fact>}
            </dl>
            <Panel title={t("tenant.quotas")}>
              <Quotas tenant={tenant} />
            </Panel>
          </>
        )}
      </Loaded>
      <Keys tenant={name} />
    </div>
  );
}

function Quotas({ tenant }: { tenant: TenantMessage }) {
  const names = [...new Set([...Object.keys(tenant.usage), ...Object.keys(tenant.quotas)])].sort();
  if (names.length === 0) return <Empty title={t("tenant.quotas.none")} />;
  return (
    <ul className="list">
      {names.map((quota) => {
        const used = tenant.usage[quota] ?? 0n;
        const limit = tenant.quotas[quota];
        const full = limit !== undefined && limit > 0n && used * 10n >= limit * 9n;
        return (
          <li key={quota} className={full ? "full" : undefined}>
            <span className="grow">
              <code>{quota}</code>
            </span>
            <span className="num">
              {number(used)} / {limit === undefined ? t("timing.default") : limit === 0n ? t("tenant.unlimited") : number(limit)}
            </span>
            {limit !== undefined && limit > 0n && <progress aria-label={quota} max={Number(limit)} value={Number(used > limit ? limit : used)} />}
          </li>
        );
      })}
    </ul>
  );
}

function Actions({ tenant }: { tenant: TenantMessage }) {
  const [, go] = useLocation();
  const client = useQueryClient();
  const [asked, setAsked] = useState<"edit" | "delete" | null>(null);
  const remove = useMutation(TenantService.method.deleteTenant);
  const name = tenant.name;
  return (
    <>
      <button onClick={() => setAsked("edit")}>{t("action.edit")}</button>
      <button className="danger" disabled={name === "default"} onClick={() => setAsked("delete")}>
        {t("action.delete")}
      </button>
      {asked === "edit" && <Edit tenant={tenant} close={() => setAsked(null)} />}
      {asked === "delete" && (
        <Destroy
          title={t("tenant.delete.title", { name })}
          name={name}
          typed
          action={t("action.delete")}
          close={() => setAsked(null)}
          extra={<CopyAs method={TenantService.method.deleteTenant} input={() => ({ name })} />}
          submit={async () => {
            await remove.mutateAsync({ name });
            tell(t("queue.deleted", { name }));
            go("/tenants");
            await client.invalidateQueries();
          }}
        >
          {t("tenant.delete.what")}
        </Destroy>
      )}
    </>
  );
}

function Edit({ tenant, close }: { tenant: TenantMessage; close: () => void }) {
  const client = useQueryClient();
  const update = useMutation(TenantService.method.updateTenant);
  const [displayName, setDisplayName] = useState(tenant.displayName);
  const [disabled, setDisabled] = useState(tenant.disabled);
  const [rateLimit, setRateLimit] = useState(tenant.rateLimit);
  const [lines, setLines] = useState(
    Object.entries(tenant.quotas)
      .map(([quota, limit]) => `${quota}=${limit}`)
      .join("\n"),
  );
  const pairs = lines
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean)
    .map((line) => /^([a-z_]+)\s*=\s*(\d+)$/.exec(line));
  const wrong = pairs.findIndex((pair) => pair === null);
  const request = () => ({
    name: tenant.name,
    displayName,
    disabled,
    rateLimit,
    quotas: Object.fromEntries(pairs.flatMap((pair) => (pair ? [[pair[1] ?? "", BigInt(pair[2] ?? "0")]] : []))),
    updateMask: { paths: ["display_name", "disabled", "rate_limit", "quotas"] },
  });
  return (
    <FormDialog
      title={t("tenant.edit", { name: tenant.name })}
      action={t("action.save")}
      close={close}
      disabled={wrong >= 0}
      extra={<CopyAs method={TenantService.method.updateTenant} input={request} />}
      submit={async () => {
        await update.mutateAsync(request());
        await client.invalidateQueries();
        tell(t("queue.changed", { name: tenant.name }));
      }}
    >
      <div className="form">
        <Field label={t("tenant.displayName")}>
          <input maxLength={200} value={displayName} onChange={(e) => setDisplayName(e.target.value)} />
        </Field>
        <Field label={t("tenant.rate")} hint={t("tenant.rate.hint")}>
          <input pattern="[1-9][0-9]{0,8}/[smh]" value={rateLimit} placeholder={t("timing.default")} onChange={(e) => setRateLimit(e.target.value)} />
        </Field>
        <Field label={t("tenant.quotas")} hint={t("tenant.quotas.hint")} wrong={wrong >= 0 ? t("attributes.wrong", { n: wrong + 1 }) : undefined} wide>
          <textarea spellCheck={false} rows={5} value={lines} placeholder="queues=100" onChange={(e) => setLines(e.target.value)} />
        </Field>
      </div>
      <Check label={t("tenant.disable")} checked={disabled} disabled={tenant.name === "default"} onChange={setDisabled} />
    </FormDialog>
  );
}
