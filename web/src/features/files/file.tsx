import { useMutation, useQuery } from "@connectrpc/connect-query";
import { useQuery as usePlainQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { FileService, FileState, type File as StoredFile } from "../../gen/plinth/file/v1/file_pb.js";
import { bytes, number, t, type Key } from "../../i18n";
import { asDownload } from "../../rpc/copy";
import { Exact, Status, Time, type Tone } from "../../ui/basic";
import { Commands, CopyAs, CopyButton } from "../../ui/copy";
import { Destroy, Dialog } from "../../ui/dialog";
import { Attributes, Payload } from "../../ui/payload";
import { Failure, Loaded, Waiting } from "../../ui/state";
import { tell, tellError } from "../../ui/toast";
import { content, save } from "./content";
import { Share } from "./share";

const states: Partial<Record<FileState, [Key, Tone]>> = {
  [FileState.PENDING]: ["file.pending", "busy"],
  [FileState.VERIFYING]: ["file.verifying", "busy"],
  [FileState.READY]: ["file.ready", "good"],
  [FileState.DELETING]: ["file.deleting", "warn"],
  [FileState.FAILED]: ["file.failed", "bad"],
};

export function State({ of }: { of: FileState }) {
  const [key, tone] = states[of] ?? ["file.pending", "calm"];
  return <Status tone={tone}>{t(key)}</Status>;
}

/** One is one file: what is known of it, and what is in it. */
export function One({ id, close }: { id: string; close: () => void }) {
  const client = useQueryClient();
  const query = useQuery(FileService.method.getFile, { id }, { retry: false });
  const remove = useMutation(FileService.method.deleteFile);
  const [asked, setAsked] = useState(false);
  const [sharing, setSharing] = useState(false);
  const [saving, setSaving] = useState(false);

  async function download(file: StoredFile) {
    setSaving(true);
    try {
      await save(file.id, file.filename);
    } catch (error) {
      tellError(error);
    } finally {
      setSaving(false);
    }
  }

  if (asked && query.data) {
    return (
      <Destroy
        title={t("file.delete.title")}
        name={query.data.filename}
        action={t("action.delete")}
        close={() => setAsked(false)}
        extra={<CopyAs method={FileService.method.deleteFile} input={() => ({ id })} />}
        submit={async () => {
          await remove.mutateAsync({ id });
          tell(t("files.deleted", { n: 1 }));
          close();
          await client.invalidateQueries();
        }}
      >
        {t("file.delete.what", { name: query.data.filename })}
      </Destroy>
    );
  }
  if (sharing && query.data) return <Share file={query.data} close={() => setSharing(false)} />;
  return (
    <Dialog wide title={query.data?.filename ?? t("file")} close={close}>
      <Loaded query={query}>
        {(file) => (
          <>
            <dl className="pairs">
              <dt>{t("file.id")}</dt>
              <dd className="mono">
                {file.id}
                <CopyButton text={file.id} />
              </dd>
              <dt>{t("col.state")}</dt>
              <dd>
                <State of={file.state} /> {file.failure && <span className="text">{file.failure}</span>}
              </dd>
              <dt>{t("size")}</dt>
              <dd>
                {bytes(file.size)} ({number(file.size)} B)
              </dd>
              <dt>{t("file.type")}</dt>
              <dd className="text">
                {file.contentType}
                {file.declaredContentType !== file.contentType && file.declaredContentType && (
                  <span className="soft"> {t("file.declared", { type: file.declaredContentType })}</span>
                )}
              </dd>
              <dt>SHA-256</dt>
              <dd className="mono">
                {file.checksum}
                <CopyButton text={file.checksum} />
              </dd>
              {file.folder && (
                <>
                  <dt>{t("file.folder")}</dt>
                  <dd className="text">{file.folder}</dd>
                </>
              )}
              <dt>{t("col.created")}</dt>
              <dd>{file.createTime && <Exact at={file.createTime} />}</dd>
              {file.expireTime && (
                <>
                  <dt>{t("file.expires")}</dt>
                  <dd>
                    <Exact at={file.expireTime} /> (<Time at={file.expireTime} />)
                  </dd>
                </>
              )}
            </dl>
            <h3>{t("attributes")}</h3>
            <Attributes of={file.attributes} />
            {file.state === FileState.READY && <Preview file={file} />}
            <footer>
              {file.state === FileState.READY && <Commands curl={(who) => asDownload(who, id, file.filename)} />}
              <button className="danger" onClick={() => setAsked(true)}>
                {t("action.delete")}
              </button>
              <button disabled={file.state !== FileState.READY} onClick={() => setSharing(true)}>
                {t("file.share")}
              </button>
              <button className="primary" disabled={file.state !== FileState.READY || saving} onClick={() => void download(file)}>
                {t("file.download")}
              </button>
            </footer>
          </>
        )}
      </Loaded>
    </Dialog>
  );
}

const images = /^image\/(png|jpeg|gif|webp|avif|bmp)$/;
const readable = /^(text\/|application\/(json|xml|yaml|javascript|x-ndjson|toml|sql)|image\/svg)/;
const mostShown = 16 << 20;
const mostText = 256 << 10;

/**
 * Preview shows what a file holds without running any of it: pixels as an image, PDF in the browser's own viewer, and everything else
 * that is text as text, SVG and HTML among it.
 */
function Preview({ file }: { file: StoredFile }) {
  const kind = file.contentType.split(";")[0]?.trim() ?? "";
  const shown = images.test(kind) ? "image" : kind === "application/pdf" ? "pdf" : readable.test(kind) ? "text" : null;
  const fits = shown === "text" || file.size <= mostShown;
  const { data, error } = usePlainQuery({
    queryKey: ["content", file.id],
    enabled: shown !== null && fits && file.size > 0n,
    staleTime: Infinity,
    gcTime: 0,
    retry: false,
    queryFn: async () => {
      const blob = await content(file.id, shown === "text" ? mostText : undefined);
      return shown === "text" ? new Uint8Array(await blob.arrayBuffer()) : blob;
    },
  });
  // The type is ours and not the file's, so that nothing else can be made of the bytes.
  const url = useObjectUrl(data instanceof Blob ? data : undefined, shown === "pdf" ? "application/pdf" : kind);
  if (shown === null || file.size === 0n) return <p className="soft">{t("file.noPreview")}</p>;
  if (!fits) return <p className="soft">{t("file.tooLarge", { size: bytes(mostShown) })}</p>;
  return (
    <>
      <h3>{t("file.preview")}</h3>
      {error && <Failure error={error} />}
      {!data && !error && <Waiting />}
      {data instanceof Uint8Array && (
        <>
          <Payload data={data} />
          {file.size > BigInt(mostText) && <p className="soft">{t("payload.cut", { size: bytes(mostText) })}</p>}
        </>
      )}
      {url && shown === "image" && <img className="preview" src={url} alt={file.filename} />}
      {url && shown === "pdf" && <iframe className="preview" src={url} title={file.filename} />}
    </>
  );
}

function useObjectUrl(blob: Blob | undefined, type: string): string {
  const [url, setUrl] = useState("");
  useEffect(() => {
    if (!blob) return;
    const made = URL.createObjectURL(blob.slice(0, blob.size, type));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [blob, type]);
  return url;
}
