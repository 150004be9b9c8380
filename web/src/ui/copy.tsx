import type { DescMessage, DescMethod, MessageInitShape } from "@bufbuild/protobuf";
import { t } from "../i18n";
import { asCurl, asGet, asGrpcurl, type Caller } from "../rpc/copy";
import { useSession } from "../rpc/session";
import { tell } from "./toast";

export async function copy(text: string) {
  try {
    await navigator.clipboard.writeText(text);
    tell(t("copied"));
  } catch {
    tell(t("copied.not"), true);
  }
}

export function CopyButton({ text, label }: { text: string; label?: string }) {
  return (
    <button type="button" className="quiet" onClick={() => void copy(text)}>
      {label ?? t("action.copy")}
    </button>
  );
}

/**
 * CopyAs copies an action as the command that does the same, or as one for each of several calls. A stream needs its path of the REST API,
 * too.
 */
export function CopyAs<I extends DescMessage>({
  method,
  input,
  path,
}: {
  method: DescMethod & { input: I };
  input: () => MessageInitShape<I> | MessageInitShape<I>[];
  path?: () => string;
}) {
  const each = (as: typeof asCurl) => (who: Caller) => {
    const made = input();
    return (Array.isArray(made) ? made : [made]).map((one) => as(who, method, one)).join("\n");
  };
  return <Commands curl={path ? (who) => asGet(who, path()) : each(asCurl)} grpcurl={each(asGrpcurl)} />;
}

/** Commands copies an action of the REST API as a command, and as that of gRPC if there is one. */
export function Commands({ curl, grpcurl }: { curl: (who: Caller) => string; grpcurl?: (who: Caller) => string }) {
  const who = useSession();
  return (
    <span className="copy-as">
      <span>{t("action.copyAs")}</span>
      <button type="button" className="quiet" onClick={() => void copy(curl(who))}>
        curl
      </button>
      {grpcurl && (
        <button type="button" className="quiet" onClick={() => void copy(grpcurl(who))}>
          grpcurl
        </button>
      )}
    </span>
  );
}
