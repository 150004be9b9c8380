import { useState, type FormEvent } from "react";
import { t } from "../i18n";
import { hostOf, issuer, Refusal } from "../rpc/issuer";
import { leaveFor, signIn, useSession } from "../rpc/session";
import { Check, Field } from "../ui/basic";
import { Failure } from "../ui/state";
import { Mark } from "./places";
import { LanguageChoice, ThemeChoice } from "./shell";

/**
 * SignIn takes an API key, or sends the browser to the issuer, if there is one. What comes of it stays in the memory of the tab, unless the tab
 * is to remember it.
 */
export function SignIn() {
  const { expired, refusal } = useSession();
  const [key, setKey] = useState("");
  const [remember, setRemember] = useState(false);
  const [busy, setBusy] = useState(false);
  const [wrong, setWrong] = useState(false);
  const [error, setError] = useState<unknown>(null);

  async function submit(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    setError(null);
    setWrong(false);
    try {
      if (!(await signIn(key.trim(), remember))) setWrong(true);
    } catch (failure) {
      setError(failure);
    } finally {
      setBusy(false);
    }
  }

  async function leave() {
    if (!issuer) return;
    setBusy(true);
    setError(null);
    try {
      await leaveFor(issuer, remember); // The browser is on its way then.
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  }

  return (
    <main className="sign-in">
      <div className="panel">
        <form className="body stack" onSubmit={(e) => void submit(e)}>
          <div className="row brand">
            <Mark />
            <h1>{t("signIn")}</h1>
          </div>
          {expired && (
            <div className="notice warn" role="alert">
              {t("signIn.expired")}
            </div>
          )}
          {refusal && error === null && <Refused refusal={refusal} />}
          {issuer && (
            <>
              <button type="button" className="primary" disabled={busy} onClick={() => void leave()}>
                {t("oidc.go", { issuer: hostOf(issuer) })}
              </button>
              <p className="soft">{t("oidc.or")}</p>
            </>
          )}
          <Field label={t("signIn.key")} hint={t("signIn.hint")} wrong={wrong ? t("signIn.wrong") : undefined}>
            <input
              type="password"
              autoComplete="off"
              spellCheck={false}
              required
              autoFocus={!issuer}
              placeholder="plinth_…"
              value={key}
              onChange={(e) => setKey(e.target.value)}
            />
          </Field>
          <Check label={t("signIn.remember")} checked={remember} onChange={setRemember} />
          {error instanceof Refusal ? <Refused refusal={error} /> : error !== null && <Failure error={error} />}
          <button className={issuer ? "" : "primary"} disabled={busy}>
            {t("signIn.go")}
          </button>
          <div className="row">
            <LanguageChoice />
            <ThemeChoice />
            <a href="/docs">{t("nav.docs")}</a>
          </div>
        </form>
      </div>
    </main>
  );
}

/** Refused says why signing in at the issuer did not succeed, and what to do next. */
function Refused({ refusal }: { refusal: Refusal }) {
  return (
    <div className="notice warn" role="alert">
      <p>{t(refusal.key, { issuer: hostOf(refusal.issuer), origin: location.origin })}</p>
      {refusal.detail && <p className="mono text">{refusal.detail}</p>}
    </div>
  );
}
