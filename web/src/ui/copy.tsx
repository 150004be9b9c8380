import type { DescMessage, DescMethod, MessageInitShape } from "@bufbuild/protobuf";
import { t } from "../i18n";
import { asCurl, asGet, asGrpcurl } from "../rpc/copy";
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

/** CopyAs copies an action as the command that does the same. A stream needs its path of the REST API, too. */
export function CopyAs<I extends DescMessage>({
  method,
  input,
  path,
}: {
  method: DescMethod & { input: I };
  input: () => MessageInitShape<I>;
  path?: () => string;
}) {
  const who = useSession();
  return (
    <span className="copy-as">
      <span>{t("action.copyAs")}</span>
      <button type="button" className="quiet" onClick={() => void copy(path ? asGet(who, path()) : asCurl(who, method, input()))}>
        curl
      </button>
      <button type="button" className="quiet" onClick={() => void copy(asGrpcurl(who, method, input()))}>
        grpcurl
      </button>
    </span>
  );
}
