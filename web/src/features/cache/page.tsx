import { skipToken, useMutation, useQuery } from "@connectrpc/connect-query";
import { Code } from "@connectrpc/connect";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, type FormEvent } from "react";
import { CacheService } from "../../gen/plinth/cache/v1/cache_pb.js";
import { t } from "../../i18n";
import { Exact, Field, Head, Panel, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Destroy } from "../../ui/dialog";
import { Payload } from "../../ui/payload";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { tell } from "../../ui/toast";

/** Cache looks up the value of a key. Values are not listed: a cache is asked for what one knows. */
export default function Cache() {
  const client = useQueryClient();
  const [filter, setFilter] = useFilter(["key"]);
  const [text, setText] = useState(filter.key);
  useEffect(() => setText(filter.key), [filter.key]); // One may have gone back.
  const [asked, setAsked] = useState(false);
  const key = filter.key;
  const query = useQuery(CacheService.method.get, key ? { key } : skipToken, { retry: false, staleTime: 0 });
  const remove = useMutation(CacheService.method.delete);
  const missing = query.error?.code === Code.NotFound;
  function submit(event: FormEvent) {
    event.preventDefault();
    if (text === key) void query.refetch();
    setFilter({ key: text });
  }
  return (
    <div className="page">
      <Head title={t("nav.cache")} />
      <form className="filters" onSubmit={submit}>
        <Field label={t("cache.key")}>
          <input type="search" required maxLength={512} spellCheck={false} value={text} onChange={(e) => setText(e.target.value)} />
        </Field>
        <button className="primary">{t("action.find")}</button>
      </form>
      {!key && (
        <Panel>
          <Empty title={t("cache.ask")}>
            <p>{t("cache.ask.hint")}</p>
          </Empty>
        </Panel>
      )}
      {key && missing && (
        <Panel>
          <Empty title={t("cache.missing")}>
            <p>{t("cache.missing.hint")}</p>
          </Empty>
        </Panel>
      )}
      {key && !missing && (
        <Loaded query={query}>
          {(entry) => (
            <Panel
              title={t("cache.value")}
              actions={
                <>
                  <CopyAs method={CacheService.method.get} input={() => ({ key })} />
                  <button className="danger" onClick={() => setAsked(true)}>
                    {t("action.delete")}
                  </button>
                </>
              }
            >
              <div className="body">
                <dl className="pairs">
                  <dt>{t("cache.key")}</dt>
                  <dd className="mono text">{key}</dd>
                  <dt>{t("cache.version")}</dt>
                  <dd className="mono">{entry.version}</dd>
                  <dt>{t("cache.expires")}</dt>
                  <dd>
                    {entry.expireTime && <Exact at={entry.expireTime} />} (<Time at={entry.expireTime} />)
                  </dd>
                </dl>
                <Payload data={entry.value} />
              </div>
              {asked && (
                <Destroy
                  title={t("cache.delete.title")}
                  name={key}
                  action={t("action.delete")}
                  close={() => setAsked(false)}
                  extra={<CopyAs method={CacheService.method.delete} input={() => ({ key, ifVersion: entry.version })} />}
                  submit={async () => {
                    await remove.mutateAsync({ key, ifVersion: entry.version });
                    tell(t("cache.deleted"));
                    await client.invalidateQueries();
                  }}
                >
                  {t("cache.delete.what", { key })}
                </Destroy>
              )}
            </Panel>
          )}
        </Loaded>
      )}
    </div>
  );
}
