import { create, toJson, toJsonString, type DescMessage, type DescMethod, type MessageInitShape } from "@bufbuild/protobuf";

/** quote makes a text one word of a shell. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function json<I extends DescMessage>(method: DescMethod & { input: I }, input: MessageInitShape<I>): string {
  return toJsonString(method.input, create(method.input, input));
}

/** grpcurl takes a field mask as the message that it is, and not as the text that it has in JSON. */
function jsonForGrpcurl<I extends DescMessage>(method: DescMethod & { input: I }, input: MessageInitShape<I>): string {
  const message = create(method.input, input) as unknown as Record<string, { paths: string[] } | undefined>;
  const value = toJson(method.input, message as never) as Record<string, unknown>;
  for (const { message: type, jsonName, localName } of method.input.fields) {
    if (type?.typeName === "google.protobuf.FieldMask" && jsonName in value) value[jsonName] = { paths: message[localName]?.paths };
  }
  return JSON.stringify(value);
}

/** Commands never hold the key: they take it from the environment, as scripts do. */
function authorization(tenant: string, open: boolean): string {
  return (open ? "" : ` -H "Authorization: Bearer $PLINTH_API_KEY"`) + (tenant ? ` -H ${quote(`X-Tenant: ${tenant}`)}` : "");
}

export interface Caller {
  tenant: string;
  open: boolean;
}

/** asCurl returns the command that makes the same call over Connect's JSON. */
export function asCurl<I extends DescMessage>(who: Caller, method: DescMethod & { input: I }, input: MessageInitShape<I>): string {
  return (
    `curl${authorization(who.tenant, who.open)} -H 'Content-Type: application/json' -d ${quote(json(method, input))} ` +
    `${location.origin}/${method.parent.typeName}/${method.name}`
  );
}

/** asGet returns the command that gets a path of the REST API, for what curl cannot do over Connect: streams. */
export function asGet(who: Caller, path: string): string {
  return `curl -N${authorization(who.tenant, who.open)} ${quote(location.origin + path)}`;
}

/** asUpload returns the command that uploads the file that $FILE names, below its own name. Brackets in that are no pattern, for -g. */
export function asUpload(who: Caller, folder: string): string {
  const query = folder ? `?${new URLSearchParams({ folder })}` : "";
  return `curl -g${authorization(who.tenant, who.open)} -T "$FILE" ${quote(`${location.origin}/api/v1/upload/${query}`)}`;
}

/** asDownload returns the command that downloads a file under its name, which holds no path. An error leaves no file, for -f. */
export function asDownload(who: Caller, id: string, filename: string): string {
  const path = `/api/v1/files/${encodeURIComponent(id)}/content`;
  return `curl -f${authorization(who.tenant, who.open)} -o ${quote(filename)} ${quote(location.origin + path)}`;
}

/** asGrpcurl returns the command that makes the same call over gRPC. */
export function asGrpcurl<I extends DescMessage>(who: Caller, method: DescMethod & { input: I }, input: MessageInitShape<I>): string {
  const plain = location.protocol === "http:" ? " -plaintext" : "";
  const port = location.port || (location.protocol === "http:" ? "80" : "443");
  return (
    `grpcurl${plain}${authorization(who.tenant, who.open)} -d ${quote(jsonForGrpcurl(method, input))} ` +
    `${location.hostname}:${port} ${method.parent.typeName}/${method.name}`
  );
}
