import * as oauth from "oauth4webapi";
import type { Key } from "../i18n";
import { Refusal, type Issuer, type Login } from "./issuer";
import { tabStorage } from "../storage";

/** What has to outlive the visit to the issuer. It is of use once. */
interface Leave {
  state: string;
  nonce: string;
  verifier: string;
  path: string;
  remember: boolean;
}

const leaveItem = "plinth.leave";

/** The page that the issuer sends people back to, as the client there names it. */
const back = `${location.origin}/`;

function options(issuer: Issuer) {
  return { [oauth.allowInsecureRequests]: issuer.issuer.startsWith("http://"), signal: AbortSignal.timeout(15_000) };
}

/** attempt does what needs the issuer. Errors: Refusal, which says what to do next. */
async function attempt<R>(issuer: Issuer, otherwise: Key, what: () => Promise<R>): Promise<R> {
  try {
    return await what();
  } catch (error) {
    if (error instanceof Refusal) throw error;
    if (error instanceof oauth.AuthorizationResponseError) throw new Refusal("oidc.denied", issuer, error.error_description ?? error.error);
    if (error instanceof oauth.ResponseBodyError) throw new Refusal(otherwise, issuer, error.error_description ?? error.error);
    if (error instanceof oauth.OperationProcessingError || error instanceof oauth.UnsupportedOperationError) {
      const answer = error.cause instanceof Response && error.cause.status >= 500;
      throw new Refusal(answer ? "oidc.unreachable" : "oidc.wrong", issuer, error.message);
    }
    throw new Refusal("oidc.unreachable", issuer, String(error)); // The browser tells pages no more about it.
  }
}

/** server finds out where the issuer has its endpoints. The page's policy allows calls to the issuer's own origin alone. */
async function server(issuer: Issuer): Promise<oauth.AuthorizationServer> {
  const url = new URL(issuer.issuer);
  const found = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, options(issuer)));
  const token = new URL(found.token_endpoint ?? "", issuer.issuer);
  if (token.origin !== url.origin) throw new Refusal("oidc.elsewhere", issuer, token.origin);
  return found;
}

/** leave sends the browser to the issuer. Errors: Refusal. */
export async function leave(issuer: Issuer, remember: boolean, again: boolean) {
  if (!isSecureContext) throw new Refusal("oidc.insecure", issuer, location.origin);
  await attempt(issuer, "oidc.wrong", async () => {
    const { authorization_endpoint } = await server(issuer);
    const kept: Leave = {
      state: oauth.generateRandomState(),
      nonce: oauth.generateRandomNonce(),
      verifier: oauth.generateRandomCodeVerifier(),
      path: location.pathname + location.search + location.hash,
      remember,
    };
    const to = new URL(authorization_endpoint ?? "");
    if (!/^https?:$/.test(to.protocol)) throw new Refusal("oidc.wrong", issuer, to.protocol);
    const asked = {
      client_id: issuer.clientId,
      redirect_uri: back,
      response_type: "code",
      scope: issuer.scopes,
      state: kept.state,
      nonce: kept.nonce,
      code_challenge: await oauth.calculatePKCECodeChallenge(kept.verifier),
      code_challenge_method: "S256",
      ...(again ? { prompt: "login" } : {}),
    };
    for (const [name, value] of Object.entries(asked)) to.searchParams.set(name, value);
    tabStorage.setItem(leaveItem, JSON.stringify(kept));
    location.assign(to);
  });
}

/** arrive makes a login of what the issuer sent the browser back with, and has the address be what it was. Errors: Refusal. */
export async function arrive(issuer: Issuer): Promise<{ login: Login; remember: boolean }> {
  const answer = new URL(location.href);
  const text = tabStorage.getItem(leaveItem);
  tabStorage.removeItem(leaveItem);
  const kept = text ? (JSON.parse(text) as Leave) : null;
  history.replaceState(null, "", kept?.path ?? "/"); // The code is in no history, and a reload does not send it again.
  if (kept === null || answer.searchParams.get("state") !== kept.state) throw new Refusal("oidc.lost", issuer, "");
  return attempt(issuer, "oidc.wrong", async () => {
    const [as, client] = [await server(issuer), { client_id: issuer.clientId }];
    const parameters = oauth.validateAuthResponse(as, client, answer, kept.state);
    const response = await oauth.authorizationCodeGrantRequest(as, client, oauth.None(), parameters, back, kept.verifier, options(issuer));
    const tokens = await oauth.processAuthorizationCodeResponse(as, client, response, { expectedNonce: kept.nonce, requireIdToken: true });
    const claims = oauth.getValidatedIdTokenClaims(tokens);
    const name = [claims?.["preferred_username"], claims?.["email"], claims?.["name"]].find((n) => typeof n === "string" && n !== "");
    return { login: { subject: claims?.sub ?? "", name: String(name ?? claims?.sub), ...toTokens(tokens) }, remember: kept.remember };
  });
}

/** renewed returns a login with new tokens. Errors: Refusal, oidc.expired if the issuer gives none any more. */
export function renewed(issuer: Issuer, login: Login): Promise<Login> {
  return attempt(issuer, "oidc.expired", async () => {
    const [as, client] = [await server(issuer), { client_id: issuer.clientId }];
    const response = await oauth.refreshTokenGrantRequest(as, client, oauth.None(), login.refreshToken, options(issuer));
    const tokens = await oauth.processRefreshTokenResponse(as, client, response);
    const sub = oauth.getValidatedIdTokenClaims(tokens)?.sub;
    if (sub !== undefined && sub !== login.subject) throw new Refusal("oidc.expired", issuer, "");
    return { ...login, ...toTokens(tokens, login.refreshToken) };
  });
}

/** revoke has the issuer forget a login, if it takes that. The browser may know the person there still. */
export async function revoke(issuer: Issuer, login: Login) {
  const [as, client] = [await server(issuer), { client_id: issuer.clientId }];
  if (new URL(as.revocation_endpoint ?? location.origin).origin !== new URL(issuer.issuer).origin) return;
  await oauth.revocationRequest(as, client, oauth.None(), login.refreshToken, options(issuer));
}

function toTokens(tokens: oauth.TokenEndpointResponse, refreshToken = "") {
  const lasts = tokens.expires_in ?? 0;
  return {
    accessToken: tokens.access_token,
    refreshToken: tokens.refresh_token ?? refreshToken, // Some issuers give the same one for good.
    lasts: lasts * 1000,
    until: lasts > 0 ? Date.now() + lasts * 1000 : Number.MAX_SAFE_INTEGER,
  };
}
