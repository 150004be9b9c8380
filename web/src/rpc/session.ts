import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { useSyncExternalStore } from "react";
import { TenantService } from "../gen/plinth/tenant/v1/tenant_pb.js";
import { queryClient } from "./client";
import { noteTime } from "./clock";
import { arriving, issuer, Refusal, type Login } from "./issuer";
import { tabStorage } from "../storage";

/**
 * Session is who uses the console, and for which tenant. The key, and what an issuer gave, are in the memory of the tab, unless they are to be
 * remembered.
 */
export interface Session {
  state: "asking" | "out" | "in" | "away";
  /** Whether the server wants no key (AUTH_MODE=off). */
  open: boolean;
  admin: boolean;
  /** What calls are authenticated by: an API key, or the access token of the login. */
  key: string;
  login: Login | null;
  /** Who it is, in no words for people. It stays the same while a login is renewed. */
  who: string;
  /** The tenant that an administrator acts for; empty is the key's own. */
  tenant: string;
  /** Whether a key that was taken before is refused now. */
  expired: boolean;
  /** Why signing in at the issuer did not succeed, or is over. */
  refusal: Refusal | null;
}

const keyItem = "plinth.key";
const loginItem = "plinth.login";
const leftItem = "plinth.left";
const tenantItem = "plinth.tenant";

/** as returns what a session has of a login. */
function as(login: Login | null) {
  return { login, key: login?.accessToken ?? "", who: login ? `${issuer?.issuer} ${login.subject}` : "" };
}

function remembered(): Pick<Session, "login" | "key" | "who"> {
  const login = issuer && tabStorage.getItem(loginItem);
  if (login) return as(JSON.parse(login) as Login);
  const key = tabStorage.getItem(keyItem) ?? "";
  return { login: null, key, who: key };
}

let session: Session = {
  state: "asking",
  open: false,
  admin: false,
  ...remembered(),
  tenant: tabStorage.getItem(tenantItem) ?? "",
  expired: false,
  refusal: null,
};
const listeners = new Set<() => void>();

function change(to: Partial<Session>) {
  const before = session;
  session = { ...session, ...to };
  if (session.who !== before.who || session.tenant !== before.tenant) queryClient.clear(); // What one may see another may not.
  for (const listener of listeners) listener();
}

export function useSession(): Session {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => session,
  );
}

/** headers returns what authenticates a request that is no RPC. A request that is made later asks fresh instead. */
export function headers(): Record<string, string> {
  const h: Record<string, string> = {};
  if (session.key) h["Authorization"] = `Bearer ${session.key}`;
  if (session.tenant) h["X-Tenant"] = session.tenant;
  return h;
}

/** keyNow is what calls are authenticated by at this moment. */
export function keyNow(): string {
  return session.key;
}

/** noteRefusal ends the session if the server does not know its key any more, and returns whether there is none now. */
export function noteRefusal(key: string): boolean {
  if (session.state === "in" && session.key === key) end(session.login && issuer ? new Refusal("oidc.expired", issuer, "") : null);
  return session.state !== "in";
}

/** end has somebody sign in again. */
function end(refusal: Refusal | null) {
  tabStorage.removeItem(keyItem);
  tabStorage.removeItem(loginItem);
  clearTimeout(timer);
  change({ state: "out", ...as(null), expired: refusal === null, refusal });
}

/** Whether this page was opened by an issuer's answer: then a refusal is that of a new token. */
let arrived = false;
let timer: ReturnType<typeof setTimeout> | undefined;
let renewal: Promise<void> | null = null;

/** keep uses a login, and renews it before it expires. What the tab remembers is renewed, too. */
function keep(login: Login, remember: boolean) {
  if (remember) tabStorage.setItem(loginItem, JSON.stringify(login));
  else tabStorage.removeItem(loginItem);
  change(as(login));
  plan(beforeEnd(login));
}

/** beforeEnd is how long it is until a login is to be renewed, in ms. */
function beforeEnd(login: Login): number {
  return login.until - Math.min(60_000, login.lasts / 4) - Date.now();
}

function plan(after: number) {
  clearTimeout(timer);
  if (session.login?.refreshToken) timer = setTimeout(() => void renew(), Math.min(Math.max(after, 0), 2 ** 31 - 1));
}

/** renew has new tokens for the login. Whoever asks meanwhile waits for the same. */
function renew(): Promise<void> {
  return (renewal ??= (async () => {
    const login = session.login;
    try {
      if (!issuer || !login) return;
      const { renewed } = await import("./oidc");
      const next = await renewed(issuer, login);
      if (session.login === login) keep(next, tabStorage.getItem(loginItem) !== null);
    } catch (error) {
      if (session.login !== login) return;
      if (error instanceof Refusal && error.key === "oidc.expired") end(error);
      else plan(5_000); // The issuer is away. The old token may still do.
    } finally {
      renewal = null;
    }
  })());
}

/** fresh returns the headers of a request, with a token that has not expired if that can be had. */
export async function fresh(): Promise<Record<string, string>> {
  if (session.login?.refreshToken && session.login.until < Date.now() + 1_000) await renew();
  return headers();
}

const authenticate: Interceptor = (next) => async (req) => {
  const sent = await fresh();
  const key = session.key;
  for (const [name, value] of Object.entries(sent)) {
    if (!req.header.has(name)) req.header.set(name, value);
  }
  try {
    const res = await next(req);
    noteTime(res.header.get("date"));
    return res;
  } catch (error) {
    if (ConnectError.from(error).code === Code.Unauthenticated) noteRefusal(key);
    throw error;
  }
};

/** transport carries every RPC of the console. */
export const transport = createGrpcWebTransport({
  baseUrl: location.origin,
  interceptors: [authenticate],
  defaultTimeoutMs: 30_000,
});

const bare = createClient(TenantService, createGrpcWebTransport({ baseUrl: location.origin, defaultTimeoutMs: 10_000 }));

/** ask finds out what a key may do: admin is everything, and a refusal is nothing. Errors: those of a server that cannot tell now. */
async function ask(key: string): Promise<"admin" | "tenant" | { refused: string }> {
  try {
    await bare.listTenants({ pageSize: 1 }, key ? { headers: { Authorization: `Bearer ${key}` } } : {});
    return "admin";
  } catch (error) {
    switch (ConnectError.from(error).code) {
      case Code.Unauthenticated:
        return { refused: ConnectError.from(error).rawMessage };
      case Code.PermissionDenied:
        return "tenant";
    }
    throw error;
  }
}

/** begin finds out whether the tab has a key or comes back with a login, or needs none. */
export async function begin() {
  if (session.state !== "away") change({ state: "asking" });
  try {
    if (issuer && arriving()) {
      const { arrive } = await import("./oidc");
      const { login, remember } = await arrive(issuer);
      tabStorage.removeItem(keyItem);
      tabStorage.removeItem(tenantItem);
      change({ tenant: "" });
      keep(login, remember);
      arrived = true;
    } else if ((await ask("")) === "admin") {
      change({ state: "in", open: true, admin: true, ...as(null) });
      return;
    }
    if (session.login && session.login.until < Date.now()) await renew();
    if (!session.key) {
      change({ state: "out" });
      return;
    }
    const rights = await ask(session.key);
    if (typeof rights === "object") {
      if (!issuer || !session.login) end(null);
      else end(arrived ? new Refusal("oidc.refused", issuer, rights.refused) : new Refusal("oidc.expired", issuer, ""));
    } else {
      if (session.login) plan(beforeEnd(session.login));
      change({ state: "in", expired: false, refusal: null, admin: rights === "admin", tenant: rights === "admin" ? session.tenant : "" });
    }
  } catch (error) {
    if (error instanceof Refusal) end(error);
    else change({ state: "away" });
  }
}

/** leaveFor sends the browser to the issuer to sign in there, and to come back. Errors: Refusal. */
export async function leaveFor(to: NonNullable<typeof issuer>, remember: boolean) {
  const { leave } = await import("./oidc");
  await leave(to, remember, tabStorage.getItem(leftItem) !== null);
}

/** signIn takes a key, and returns whether the server does. */
export async function signIn(key: string, remember: boolean): Promise<boolean> {
  if (!/^[!-~]+$/.test(key)) return false; // No header can have it, as what an input method made wide.
  const rights = await ask(key);
  if (typeof rights === "object") return false;
  if (remember) tabStorage.setItem(keyItem, key);
  else tabStorage.removeItem(keyItem);
  tabStorage.removeItem(tenantItem);
  tabStorage.removeItem(loginItem);
  tabStorage.removeItem(leftItem);
  change({ state: "in", key, who: key, login: null, admin: rights === "admin", tenant: "", expired: false, refusal: null });
  return true;
}

/**
 * signOut leaves nothing behind in the tab: what was written in forms goes with the key. The issuer may know the person still; so whoever
 * signs in next in this tab has to say there who it is.
 */
export function signOut() {
  const login = session.login;
  tabStorage.clear();
  clearTimeout(timer);
  change({ state: "out", ...as(null), tenant: "", admin: false, expired: false, refusal: null });
  if (!issuer || !login) return;
  tabStorage.setItem(leftItem, "1");
  const at = issuer;
  if (login.refreshToken) void import("./oidc").then(({ revoke }) => revoke(at, login)).catch(() => {}); // It expires by itself.
}

/** actFor has an administrator act for a tenant from now on. */
export function actFor(tenant: string) {
  tabStorage.removeItem(tenantItem);
  if (tenant) tabStorage.setItem(tenantItem, tenant);
  change({ tenant });
}
