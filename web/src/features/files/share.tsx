import { useMutation } from "@connectrpc/connect-query";
import { create } from "@bufbuild/protobuf";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { useState, type FormEvent } from "react";
import { FileService, type File as StoredFile } from "../../gen/plinth/file/v1/file_pb.js";
import { span, t } from "../../i18n";
import { Check, Exact, Field } from "../../ui/basic";
import { CopyAs, CopyButton } from "../../ui/copy";
import { Dialog } from "../../ui/dialog";
import { Failure } from "../../ui/state";

/** Share makes an address of the storage at which whoever has it can download the file. */
export function Share({ file, close }: { file: StoredFile; close: () => void }) {
  const make = useMutation(FileService.method.createDownloadUrl);
  const [valid, setValid] = useState(3600);
  const [inline, setInline] = useState(false);
  const request = () => ({
    id: file.id,
    expiresIn: create(DurationSchema, { seconds: BigInt(valid) }),
    disposition: inline ? "inline" : "attachment",
  });
  function submit(event: FormEvent) {
    event.preventDefault();
    make.mutate(request());
  }
  return (
    <Dialog title={t("file.share.title", { name: file.filename })} close={close}>
      <p>{t("file.share.what")}</p>
      <form className="stack" onSubmit={submit}>
        <Field label={t("file.share.for")}>
          <select value={valid} onChange={(e) => setValid(Number(e.target.value))}>
            {[900, 3600, 86_400, 604_800].map((seconds) => (
              <option key={seconds} value={seconds}>
                {span(seconds)}
              </option>
            ))}
          </select>
        </Field>
        <Check label={t("file.share.inline")} checked={inline} onChange={setInline} />
        {make.error && <Failure error={make.error} />}
        {make.data && (
          <div className="stack" role="status">
            <pre className="payload" tabIndex={0} role="region" aria-label={t("file.share.url")}>
              {make.data.url}
            </pre>
            <p>
              <CopyButton text={make.data.url} /> {t("file.expires")} {make.data.expireTime && <Exact at={make.data.expireTime} />}
            </p>
          </div>
        )}
        <footer>
          <CopyAs method={FileService.method.createDownloadUrl} input={request} />
          <button type="button" onClick={close}>
            {t("action.close")}
          </button>
          <button className="primary" disabled={make.isPending}>
            {t("file.share.go")}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
