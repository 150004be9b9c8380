import { fresh, headers, noteRefusal } from "../../rpc/session";

/** failure is the error of a plain route, whose replies are JSON as Connect has it. */
export function failure(status: number, text: string): Error {
  try {
    const { message } = JSON.parse(text) as { message?: string };
    if (message) return new Error(message);
  } catch {
    // It is not from the service, but from something before it.
  }
  return new Error(`HTTP ${status}`);
}

/** content fetches a file, or its first bytes. */
export async function content(id: string, most?: number): Promise<Blob> {
  const sent = await fresh();
  const res = await fetch(`/api/v1/files/${encodeURIComponent(id)}/content`, {
    headers: { ...sent, ...(most ? { Range: `bytes=0-${most - 1}` } : {}) },
  });
  if (res.status === 401) noteRefusal(sent["Authorization"]?.slice("Bearer ".length) ?? "");
  if (!res.ok) throw failure(res.status, await res.text());
  return res.blob();
}

/** save has the browser save a file under its name. */
export async function save(id: string, filename: string) {
  const url = URL.createObjectURL(new Blob([await content(id)], { type: "application/octet-stream" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = filename;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export interface Upload {
  id: string;
  file: File;
  sent: number;
  state: "waiting" | "sending" | "paused" | "done" | "failed" | "stopped";
  error: string;
}

/** resumable reports whether a file is so large that it is sent in a way that goes on where it was cut. That takes more requests. */
export function resumable(file: File): boolean {
  return file.size > 8 << 20;
}

/** send uploads a file. The promise is fulfilled once the server has all of it. */
export async function send(upload: Upload, folder: string, progress: (sent: number) => void, stop: AbortSignal): Promise<void> {
  if (!resumable(upload.file)) return sendWhole(upload, folder, progress, stop);
  const { sendResumable } = await import("./resumable");
  stop.throwIfAborted();
  return sendResumable(upload, folder, progress, stop);
}

/** discard has the server drop what it has of an upload that was stopped. */
export async function discard({ id, file }: Upload) {
  if (resumable(file)) await (await import("./resumable")).forget(id);
}

/** sendWhole uploads a file in one request. A key makes it harmless to send the same file again after an answer was lost. */
function sendWhole(
  { id, file }: Upload,
  folder: string,
  progress: (sent: number) => void,
  stop: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ filename: file.name, ...(folder ? { folder } : {}) });
    request.open("POST", `/api/v1/upload?${query}`);
    const sent = headers();
    for (const [name, value] of Object.entries(sent)) request.setRequestHeader(name, value);
    request.setRequestHeader("Idempotency-Key", id);
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.upload.onprogress = (e) => progress(e.loaded);
    request.onload = () => {
      if (request.status === 401) noteRefusal(sent["Authorization"]?.slice("Bearer ".length) ?? "");
      if (request.status < 300) resolve();
      else reject(failure(request.status, request.responseText));
    };
    request.onerror = () => reject(new TypeError("Failed to fetch"));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    stop.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}
