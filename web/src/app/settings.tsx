import { t } from "../i18n";
import { signOut, useSession } from "../rpc/session";
import { Head, Panel } from "../ui/basic";
import { CopyButton } from "../ui/copy";
import { LanguageChoice, ThemeChoice } from "./shell";

/** Settings are what the browser keeps of this console, and how it is signed in. */
export default function Settings() {
  const session = useSession();
  return (
    <div className="page">
      <Head title={t("nav.settings")} />
      <div className="columns">
        <Panel title={t("settings.session")}>
          <div className="body">
            <dl className="pairs">
              <dt>{t("settings.server")}</dt>
              <dd className="mono">{location.origin}</dd>
              <dt>{session.login ? t("settings.login") : t("settings.key")}</dt>
              <dd>{session.login ? session.login.name : session.open ? t("settings.open") : <code>{session.key.slice(0, 12)}…</code>}</dd>
              <dt>{t("settings.rights")}</dt>
              <dd>{session.admin ? t("settings.admin") : t("settings.tenant")}</dd>
            </dl>
            {!session.open && <button onClick={signOut}>{t("session.out")}</button>}
          </div>
        </Panel>
        <Panel title={t("settings.look")}>
          <div className="body row">
            <ThemeChoice />
            <LanguageChoice />
          </div>
        </Panel>
        <Panel title={t("settings.clients")}>
          <div className="body">
            <p>{t("settings.clients.hint")}</p>
            <div className="row">
              <code>export PLINTH_API_KEY=…</code>
              <CopyButton text="export PLINTH_API_KEY=" />
            </div>
            <p>
              <a href="/docs">{t("nav.docs")}</a> · <a href="/openapi.yaml">openapi.yaml</a>
            </p>
          </div>
        </Panel>
      </div>
    </div>
  );
}
