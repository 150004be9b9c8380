import { Code, ConnectError } from "@connectrpc/connect";
import type { ReactNode } from "react";
import { t, type Key } from "../i18n";

const hints: Partial<Record<Code, Key>> = {
  [Code.PermissionDenied]: "hint.denied",
  [Code.Unavailable]: "hint.unavailable",
  [Code.DeadlineExceeded]: "hint.unavailable",
  [Code.Unknown]: "hint.unreachable",
  [Code.ResourceExhausted]: "hint.exhausted",
  [Code.NotFound]: "hint.gone",
};

/** describe returns what went wrong and what to do about it. */
export function describe(error: unknown): { message: string; hint: string; request: string; code: Code } {
  const e = ConnectError.from(error);
  const unreachable = e.code === Code.Unknown && !/^HTTP \d+$/.test(e.rawMessage); // That is from a proxy. The server never says unknown.
  const hint = unreachable ? "hint.unreachable" : hints[e.code];
  return {
    message: unreachable ? t("error.unreachable") : e.rawMessage,
    hint: hint ? t(hint) : "",
    request: e.metadata.get("x-request-id") ?? "",
    code: e.code,
  };
}

/** Failure shows an error with what to do next. */
export function Failure({ error, retry }: { error: unknown; retry?: (() => unknown) | undefined }) {
  const { message, hint, request } = describe(error);
  return (
    <div className="notice bad" role="alert">
      <div className="grow">
        <div className="text">{message}</div>
        {hint && <div className="soft">{hint}</div>}
        {request && (
          <div className="soft">
            {t("error.request")} <code>{request}</code>
          </div>
        )}
      </div>
      {retry && <button onClick={() => retry()}>{t("action.retry")}</button>}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <strong>{title}</strong>
      {children}
    </div>
  );
}

export function Waiting() {
  return (
    <div className="waiting" role="status">
      {t("state.loading")}
    </div>
  );
}

/**
 * Loaded shows what a query brought. While it is asked again and fails, what is known stays, with the error above it.
 */
export function Loaded<D>({
  query,
  children,
}: {
  query: { data: D | undefined; error: unknown; isPending: boolean; refetch: () => unknown };
  children: (data: D) => ReactNode;
}) {
  return (
    <>
      {query.error ? <Failure error={query.error} retry={query.refetch} /> : null}
      {query.data !== undefined ? children(query.data) : query.isPending && !query.error ? <Waiting /> : null}
    </>
  );
}
