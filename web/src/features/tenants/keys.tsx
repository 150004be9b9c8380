import { useMutation, useQuery } from "@connectrpc/connect-query";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";
import { TenantService, type ApiKey, type CreateApiKeyRequestSchema } from "../../gen/plinth/tenant/v1/tenant_pb.js";
import { t } from "../../i18n";
import { serverNow } from "../../rpc/clock";
import { Check, Field, Panel, Status, Time } from "../../ui/basic";
import { CopyAs, CopyButton } from "../../ui/copy";
import { Destroy, Dialog } from "../../ui/dialog";
import { parseSpan } from "../../ui/duration";
import { Empty, Failure, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";
import { tell } from "../../ui/toast";

/** scopes are those that the methods of the API name. */
const scopes = [
  "messages.publish", "messages.consume", "messages.read", "queues.read", "queues.write", "dead_letters.read", "dead_letters.write",
  "schedules.read", "schedules.write", "schedules.run", "files.read", "files.write", "files.inspect", "cache.read", "cache.write",
  "locks.read", "locks.write",
];

/** Keys are the API keys of a tenant: what they may do, and when they were used last. */
export function Keys({ tenant }: { tenant: string }) {
  const client = useQueryClient();
  const [tokens, setTokens] = useState<string[]>([]);
  const [creating, setCreating] = useState(false);
  const [revoked, setRevoked] = useState<ApiKey | null>(null);
  const query = useQuery(TenantService.method.listApiKeys, { tenant, pageSize: 100, pageToken: tokens.at(-1) ?? "" });
  const revoke = useMutation(TenantService.method.revokeApiKey);
  return (
    <Panel
      title={t("keys.api")}
      actions={
        <button className="primary" onClick={() => setCreating(true)}>
          {t("key.new")}
        </button>
      }
    >
      <Loaded query={query}>
        {(data) =>
          data.apiKeys.length === 0 ? (
            <Empty title={t("keys.none")}>
              <p>{t("keys.none.hint")}</p>
            </Empty>
          ) : (
            <>
              <Table
                label={t("keys.api")}
                rows={data.apiKeys}
                id={(key) => key.id}
                columns={[
                  { name: t("col.name"), cell: (key) => <span className="clip">{key.displayName || "–"}</span> },
                  { name: t("key.prefix"), cell: (key) => <code>{key.prefix}…</code> },
                  { name: t("col.state"), cell: (key) => <State of={key} /> },
                  { name: t("key.scopes"), cell: (key) => <span className="clip mono">{key.scopes.join(" ")}</span> },
                  { name: t("key.used"), cell: (key) => <Time at={key.lastUsedTime} /> },
                  { name: t("file.expires"), cell: (key) => <Time at={key.expireTime} /> },
                  {
                    name: t("col.action"),
                    cell: (key) => (
                      <button
                        className="danger"
                        disabled={key.revokeTime !== undefined}
                        aria-label={t("key.revoke.of", { name: key.displayName || key.prefix })}
                        onClick={() => setRevoked(key)}
                      >
                        {t("key.revoke")}
                      </button>
                    ),
                  },
                ]}
              />
              <div className="body">
                <Pager token={tokens} next={data.nextPageToken} go={setTokens} />
              </div>
            </>
          )
        }
      </Loaded>
      {creating && <Create tenant={tenant} close={() => setCreating(false)} />}
      {revoked && (
        <Destroy
          title={t("key.revoke.title")}
          name={revoked.displayName || revoked.prefix}
          action={t("key.revoke")}
          close={() => setRevoked(null)}
          extra={<CopyAs method={TenantService.method.revokeApiKey} input={() => ({ id: revoked.id })} />}
          submit={async () => {
            await revoke.mutateAsync({ id: revoked.id });
            await client.invalidateQueries();
            tell(t("key.revoked"));
          }}
        >
          {t("key.revoke.what", { name: revoked.displayName || "–", prefix: revoked.prefix })}
        </Destroy>
      )}
    </Panel>
  );
}

function State({ of: key }: { of: ApiKey }) {
  if (key.revokeTime) return <Status tone="bad">{t("key.state.revoked")}</Status>;
  if (key.expireTime && timestampDate(key.expireTime).getTime() < serverNow()) return <Status tone="warn">{t("key.state.expired")}</Status>;
  return <Status tone="good">{t("key.state.valid")}</Status>;
}

/** Create makes a key, and shows it once. */
function Create({ tenant, close }: { tenant: string; close: () => void }) {
  const client = useQueryClient();
  const create = useMutation(TenantService.method.createApiKey);
  const [displayName, setDisplayName] = useState("");
  const [expires, setExpires] = useState("");
  const [everything, setEverything] = useState(false);
  const [admin, setAdmin] = useState(false);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set(["messages.publish"]));
  const span = parseSpan(expires);
  const granted = admin ? ["admin"] : everything ? ["*"] : [...chosen];
  const request = (): MessageInitShape<typeof CreateApiKeyRequestSchema> => ({
    tenant,
    displayName,
    scopes: granted,
    ...(span ? { expiry: { case: "expiresIn" as const, value: span } } : {}),
  });
  function submit(event: FormEvent) {
    event.preventDefault();
    create.mutate(request(), { onSuccess: () => void client.invalidateQueries() });
  }
  if (create.data) {
    return (
      <Dialog title={t("key.made")} close={close}>
        <p>{t("key.once")}</p>
        <pre className="payload" role="region" tabIndex={0} aria-label={t("signIn.key")}>
          {create.data.key}
        </pre>
        <footer>
          <CopyButton text={create.data.key} />
          <button className="primary" onClick={close}>
            {t("key.kept")}
          </button>
        </footer>
      </Dialog>
    );
  }
  return (
    <Dialog title={t("key.new.of", { tenant })} close={close}>
      <form className="stack" onSubmit={submit}>
        <div className="form">
          <Field label={t("col.name")} hint={t("key.name.hint")}>
            <input maxLength={200} value={displayName} onChange={(e) => setDisplayName(e.target.value)} />
          </Field>
          <Field label={t("key.expires")} wrong={expires && !span ? t("hint.span") : undefined}>
            <input value={expires} placeholder={t("key.never")} onChange={(e) => setExpires(e.target.value)} />
          </Field>
        </div>
        <fieldset className="stack">
          <legend className="soft">{t("key.scopes")}</legend>
          {tenant === "default" && <Check label={t("key.admin")} checked={admin} onChange={setAdmin} />}
          <Check label={t("key.all")} checked={everything} disabled={admin} onChange={setEverything} />
          <div className="form">
            {scopes.map((scope) => (
              <Check
                key={scope}
                label={scope}
                checked={chosen.has(scope)}
                disabled={admin || everything}
                onChange={(to) => {
                  const next = new Set(chosen);
                  if (to) next.add(scope);
                  else next.delete(scope);
                  setChosen(next);
                }}
              />
            ))}
          </div>
        </fieldset>
        {create.error && <Failure error={create.error} />}
        <footer>
          <CopyAs method={TenantService.method.createApiKey} input={request} />
          <button type="button" onClick={close}>
            {t("action.cancel")}
          </button>
          <button className="primary" disabled={create.isPending || granted.length === 0 || (expires !== "" && !span)}>
            {t("action.create")}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
