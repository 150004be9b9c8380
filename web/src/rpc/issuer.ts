import type { Key } from "../i18n";

/** Issuer is where people sign in beside API keys. */
export interface Issuer {
  issuer: string;
  clientId: string;
  scopes: string;
}

/** Login is what an issuer gave. */
export interface Login {
  subject: string;
  /** What people know the subject by. */
  name: string;
  accessToken: string;
  /** Empty if there is none: then one signs in again when the access token has expired. */
  refreshToken: string;
  /** How long the access token lasts from its issue, and until when, in ms. */
  lasts: number;
  until: number;
}

/** Refusal is why a sign-in at an issuer did not succeed. Its key is a text that says what to do next. */
export class Refusal extends Error {
  constructor(
    readonly key: Key,
    readonly issuer: Issuer,
    readonly detail: string,
  ) {
    super(`${key} ${detail}`);
  }
}

/** The page itself has it, so that it is known before anybody has signed in. */
const told = document.querySelector<HTMLMetaElement>('meta[name="plinth-sign-in"]')?.content;

/** issuer is undefined if there are API keys alone. */
export const issuer = told ? (JSON.parse(told) as Issuer) : undefined;

/** hostOf is what people know an issuer by. */
export function hostOf(of: Issuer): string {
  return new URL(of.issuer).host;
}

/** arriving reports whether the page was opened by the answer of the issuer. */
export function arriving(): boolean {
  const answer = new URLSearchParams(location.search);
  return issuer !== undefined && location.pathname === "/" && answer.has("state") && (answer.has("code") || answer.has("error"));
}
