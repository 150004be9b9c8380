import { useMutation, useQuery } from "@connectrpc/connect-query";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useLocation } from "wouter";
import { FileService, FileState } from "../../gen/plinth/file/v1/file_pb.js";
import { bytes, t } from "../../i18n";
import { often } from "../../rpc/client";
import { Field, Head, Panel, Time } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Destroy } from "../../ui/dialog";
import { useFilter } from "../../ui/query";
import { Empty, Loaded } from "../../ui/state";
import { Pager, Table } from "../../ui/table";
import { tell } from "../../ui/toast";
import { One, State } from "./file";
import { Uploads } from "./uploads";

/** Files is the list of files, the latest first, with what it takes to upload more. */
export default function Files({ id }: { id: string }) {
  const [, go] = useLocation();
  const client = useQueryClient();
  const [filter, setFilter] = useFilter(["name", "folder", "type", "state"]);
  const [tokens, setTokens] = useState<string[]>([]);
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [deleting, setDeleting] = useState(false);
  const remove = useMutation(FileService.method.deleteFile);
  const query = useQuery(
    FileService.method.listFiles,
    {
      pageSize: 100,
      pageToken: tokens.at(-1) ?? "",
      filenamePrefix: filter.name,
      folder: filter.folder,
      contentType: filter.type,
      state: Number(filter.state) in FileState ? Number(filter.state) : FileState.UNSPECIFIED,
    },
    { refetchInterval: often, placeholderData: (before) => before },
  );
  const filtered = Object.values(filter).some(Boolean);
  const open = (file: string) => go(`/files${file && `/${file}`}${location.search}`);
  function refine(change: Partial<typeof filter>) {
    setTokens([]);
    setChosen(new Set());
    setFilter(change);
  }
  const ids = [...chosen];
  const names = (query.data?.files ?? []).filter((file) => chosen.has(file.id)).map((file) => file.filename);

  return (
    <div className="page">
      <Head title={t("nav.files")} />
      <Uploads folder={filter.folder} />
      <div className="filters">
        <Field label={t("file.filter.name")}>
          <input type="search" maxLength={255} value={filter.name} onChange={(e) => refine({ name: e.target.value })} />
        </Field>
        <Field label={t("file.folder")}>
          <input type="search" maxLength={512} value={filter.folder} onChange={(e) => refine({ folder: e.target.value })} />
        </Field>
        <Field label={t("file.type")}>
          <input type="search" maxLength={255} placeholder="image/*" value={filter.type} onChange={(e) => refine({ type: e.target.value })} />
        </Field>
        <Field label={t("col.state")}>
          <select value={filter.state} onChange={(e) => refine({ state: e.target.value })}>
            <option value="">{t("any")}</option>
            <option value={FileState.READY}>{t("file.ready")}</option>
            <option value={FileState.PENDING}>{t("file.pending")}</option>
            <option value={FileState.VERIFYING}>{t("file.verifying")}</option>
            <option value={FileState.FAILED}>{t("file.failed")}</option>
          </select>
        </Field>
        {filtered && <button onClick={() => refine({ name: "", folder: "", type: "", state: "" })}>{t("filter.clear")}</button>}
      </div>
      <Panel
        title={chosen.size > 0 ? t("dead.chosen", { n: chosen.size }) : t("nav.files")}
        actions={
          <button className="danger" disabled={chosen.size === 0} onClick={() => setDeleting(true)}>
            {t("files.delete")}
          </button>
        }
      >
        <Loaded query={query}>
          {(data) =>
            data.files.length === 0 ? (
              <Empty title={filtered ? t("filter.none") : t("files.none")}>{!filtered && <p>{t("files.none.hint")}</p>}</Empty>
            ) : (
              <>
                <Table
                  label={t("nav.files")}
                  rows={data.files}
                  id={(file) => file.id}
                  open={(file) => open(file.id)}
                  selection={{ ids: chosen, set: setChosen }}
                  nameOf={(file) => file.filename}
                  columns={[
                    {
                      name: t("col.name"),
                      cell: (file) => (
                        <button className="link" onClick={() => open(file.id)}>
                          <span className="clip">{file.filename}</span>
                        </button>
                      ),
                    },
                    { name: t("col.state"), cell: (file) => <State of={file.state} /> },
                    { name: t("size"), num: true, cell: (file) => bytes(file.size) },
                    { name: t("file.type"), cell: (file) => <span className="clip">{file.contentType}</span> },
                    { name: t("file.folder"), wideOnly: true, cell: (file) => <span className="clip">{file.folder}</span> },
                    { name: t("col.created"), cell: (file) => <Time at={file.createTime} /> },
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
      {id && <One id={id} close={() => open("")} />}
      {deleting && (
        <Destroy
          title={t("files.delete.title", { n: ids.length })}
          name={String(ids.length)}
          action={t("action.delete")}
          close={() => setDeleting(false)}
          extra={<CopyAs method={FileService.method.deleteFile} input={() => ids.map((one) => ({ id: one }))} />}
          submit={async () => {
            for (const one of ids) await remove.mutateAsync({ id: one });
            setChosen(new Set());
            tell(t("files.deleted", { n: ids.length }));
            await client.invalidateQueries();
          }}
        >
          {t("files.delete.what", { names: names.slice(0, 20).join(", ") + (names.length > 20 ? " …" : "") })}
        </Destroy>
      )}
    </div>
  );
}
