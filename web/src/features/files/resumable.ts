import { DetailedError, Upload as Tus } from "tus-js-client";
import { fresh, headers, noteRefusal } from "../../rpc/session";
import { failure, type Upload } from "./content";

/** urls are those of uploads that have begun and are not done, by the ids of what is uploaded. */
const urls = new Map<string, string>();

/**
 * sendResumable uploads a file by tus. It goes on behind what the server has: by itself after the connection was cut, and when the same
 * upload is sent again after it was stopped.
 */
export function sendResumable({ id, file }: Upload, folder: string, progress: (sent: number) => void, stop: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    let sent: Record<string, string> = {};
    const known = urls.get(id);
    const upload = new Tus(file, {
      endpoint: `${location.origin}/api/v1/uploads${folder && `?${new URLSearchParams({ folder })}`}`,
      ...(known ? { uploadUrl: known } : {}),
      onBeforeRequest: async (request) => {
        sent = await fresh(); // A large upload outlives a token.
        for (const [name, value] of Object.entries(sent)) request.setHeader(name, value);
      },
      metadata: { filename: file.name, filetype: file.type || "application/octet-stream" },
      storeFingerprintForResuming: false,
      retryDelays: [300, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000],
      onShouldRetry: (error) => {
        const status = error instanceof DetailedError ? (error.originalResponse?.getStatus() ?? 0) : 0;
        return status === 0 || status >= 500 || [409, 423, 429].includes(status);
      },
      onUploadUrlAvailable: () => void (upload.url && urls.set(id, upload.url)),
      onProgress: progress,
      onSuccess: () => {
        urls.delete(id);
        resolve();
      },
      onError: (error) => {
        const answer = error instanceof DetailedError ? error.originalResponse : null;
        if (!answer) return reject(new TypeError("Failed to fetch"));
        if (answer.getStatus() === 401) noteRefusal(sent["Authorization"]?.slice("Bearer ".length) ?? "");
        reject(failure(answer.getStatus(), answer.getBody()));
      },
    });
    stop.addEventListener("abort", () => {
      void upload.abort();
      reject(new DOMException("stopped", "AbortError"));
    });
    upload.start();
  });
}

/** forget has the server drop what it has of an upload. If it does not hear of it, the upload expires. */
export async function forget(id: string) {
  const url = urls.get(id);
  urls.delete(id);
  if (url) await Tus.terminate(url, { headers: headers(), retryDelays: null }).catch(() => {});
}
