import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState, type DragEvent } from "react";
import { bytes, t } from "../../i18n";
import { asUpload } from "../../rpc/copy";
import { Field, Panel, Status } from "../../ui/basic";
import { Commands } from "../../ui/copy";
import { describe } from "../../ui/state";
import { discard, resumable, send, type Upload } from "./content";

/** How many files are sent at a time. */
const atOnce = 3;

/** Why an upload was stopped that is to go on later. */
const paused = "paused";

/** Uploads takes files by drag and drop or by a choice, and sends them. They are sent as long as the page is open. */
export function Uploads({ folder: first }: { folder: string }) {
  const client = useQueryClient();
  const [uploads, setUploads] = useState<Upload[]>([]);
  const [folder, setFolder] = useState(first);
  const [over, setOver] = useState(false);
  const stops = useRef(new Map<string, AbortController>());
  const change = (id: string, to: Partial<Upload>) => setUploads((all) => all.map((one) => (one.id === id ? { ...one, ...to } : one)));

  useEffect(() => {
    const free = atOnce - uploads.filter((one) => one.state === "sending").length;
    for (const one of uploads.filter((upload) => upload.state === "waiting").slice(0, Math.max(0, free))) {
      const stop = new AbortController();
      stops.current.set(one.id, stop);
      change(one.id, { state: "sending", error: "" });
      send(one, folder, (sent) => change(one.id, { sent }), stop.signal).then(
        () => {
          change(one.id, { state: "done", sent: one.file.size });
          void client.invalidateQueries();
        },
        (error: unknown) => {
          if (stop.signal.reason === paused) return change(one.id, { state: "paused" });
          if (!stop.signal.aborted) return change(one.id, { state: "failed", error: describe(error).message });
          change(one.id, { state: "stopped", sent: 0 });
          void discard(one);
        },
      );
    }
  }, [uploads, folder, client]);
  useEffect(() => {
    const all = stops.current;
    return () => all.forEach((stop) => stop.abort());
  }, []);
  const sending = uploads.some((one) => ["sending", "waiting", "paused"].includes(one.state));
  useEffect(() => {
    if (!sending) return;
    const ask = (e: BeforeUnloadEvent) => e.preventDefault();
    window.addEventListener("beforeunload", ask);
    return () => window.removeEventListener("beforeunload", ask);
  }, [sending]);

  const add = (files: Iterable<File>) =>
    setUploads((all) => [
      ...all,
      ...[...files].map((file): Upload => ({ id: crypto.randomUUID(), file, sent: 0, state: "waiting", error: "" })),
    ]);
  function stop(one: Upload) {
    if (one.state === "sending") return stops.current.get(one.id)?.abort();
    change(one.id, { state: "stopped", sent: 0 });
    void discard(one);
  }
  function drop(e: DragEvent) {
    e.preventDefault();
    setOver(false);
    add(e.dataTransfer.files);
  }

  return (
    <Panel title={t("upload")} actions={<Commands curl={(who) => asUpload(who, folder)} />}>
      <div className="body">
        <div
          className="drop"
          data-over={over ? "" : undefined}
          onDragOver={(e) => {
            e.preventDefault();
            setOver(true);
          }}
          onDragLeave={() => setOver(false)}
          onDrop={drop}
        >
          <p>{t("upload.drop")}</p>
          <div className="row center">
            <label className="button">
              {t("upload.choose")}
              <input
                type="file"
                multiple
                className="hidden"
                onChange={(e) => {
                  add(e.target.files ?? []);
                  e.target.value = "";
                }}
              />
            </label>
          </div>
        </div>
        <Field label={t("file.folder")} hint={t("upload.folder.hint")}>
          <input value={folder} maxLength={512} disabled={sending} onChange={(e) => setFolder(e.target.value)} />
        </Field>
        {uploads.length > 0 && (
          <ul className="list">
            {uploads.map((one) => (
              <li key={one.id}>
                <span className="grow text">
                  {one.file.name} <span className="soft">{bytes(one.file.size)}</span>
                </span>
                <State of={one} />
                {["sending", "waiting", "paused"].includes(one.state) && (
                  <>
                    <progress aria-label={one.file.name} max={one.file.size || 1} value={one.sent} />
                    {one.state === "sending" && resumable(one.file) && (
                      <button onClick={() => stops.current.get(one.id)?.abort(paused)}>{t("upload.pause")}</button>
                    )}
                    {one.state === "paused" && <button onClick={() => change(one.id, { state: "waiting" })}>{t("upload.resume")}</button>}
                    <button onClick={() => stop(one)}>{t("upload.stop")}</button>
                  </>
                )}
                {(one.state === "failed" || one.state === "stopped") && (
                  <button onClick={() => change(one.id, { state: "waiting" })}>{t("action.retry")}</button>
                )}
              </li>
            ))}
          </ul>
        )}
        {uploads.some((one) => one.state === "done") && (
          <button onClick={() => setUploads((all) => all.filter((one) => one.state !== "done"))}>{t("upload.clear")}</button>
        )}
      </div>
    </Panel>
  );
}

function State({ of: one }: { of: Upload }) {
  switch (one.state) {
    case "waiting":
      return <Status tone="calm">{t("upload.waiting")}</Status>;
    case "sending":
      return <Status tone="busy">{t("upload.sending", { n: one.file.size ? Math.floor((one.sent / one.file.size) * 100) : 0 })}</Status>;
    case "paused":
      return <Status tone="warn">{t("upload.paused")}</Status>;
    case "done":
      return <Status tone="good">{t("upload.done")}</Status>;
    case "stopped":
      return <Status tone="warn">{t("upload.stopped")}</Status>;
    case "failed":
      return <Status tone="bad">{one.error}</Status>;
  }
}
