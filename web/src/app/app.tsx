import { Component, lazy, Suspense, useEffect, type ReactNode } from "react";
import { Link, Route, Switch, useLocation } from "wouter";
import { t, useLanguage } from "../i18n";
import { begin, useSession } from "../rpc/session";
import { Empty, Waiting } from "../ui/state";
import { Toasts } from "../ui/toast";
import { Shell } from "./shell";
import { SignIn } from "./sign-in";

const Overview = lazy(() => import("../features/overview/page"));
const Queues = lazy(() => import("../features/messages/queues"));
const Queue = lazy(() => import("../features/messages/queue"));
const Schedules = lazy(() => import("../features/schedules/list"));
const Schedule = lazy(() => import("../features/schedules/schedule"));
const Files = lazy(() => import("../features/files/page"));
const Channels = lazy(() => import("../features/channels/page"));
const Cache = lazy(() => import("../features/cache/page"));
const Locks = lazy(() => import("../features/locks/page"));
const Tenants = lazy(() => import("../features/tenants/list"));
const Tenant = lazy(() => import("../features/tenants/tenant"));
const Settings = lazy(() => import("./settings"));

export function App() {
  useLanguage(); // All texts change with it.
  const session = useSession();
  const who = `${session.who} ${session.tenant}`;
  return (
    <>
      {session.state === "asking" && <Waiting />}
      {session.state === "away" && <Away />}
      {session.state === "out" && <SignIn />}
      {session.state === "in" && (
        <Shell key={who}>
          <Pages />
        </Shell>
      )}
      <Toasts />
    </>
  );
}

function Pages() {
  const [path] = useLocation();
  return (
    <Fault at={path}>
      <Suspense fallback={<Waiting />}>
        <Switch>
          <Route path="/">
            <Overview />
          </Route>
          <Route path="/queues">
            <Queues />
          </Route>
          <Route path="/queues/:name/:tab?">{(p) => <Queue key={p.name} name={p.name} tab={p.tab ?? "overview"} />}</Route>
          <Route path="/schedules">
            <Schedules />
          </Route>
          <Route path="/schedules/:name/:tab?">{(p) => <Schedule key={p.name} name={p.name} tab={p.tab ?? "runs"} />}</Route>
          <Route path="/files/:id?">{(p) => <Files id={p.id ?? ""} />}</Route>
          <Route path="/channels">
            <Channels />
          </Route>
          <Route path="/cache">
            <Cache />
          </Route>
          <Route path="/locks">
            <Locks />
          </Route>
          <Route path="/tenants">
            <Tenants />
          </Route>
          <Route path="/tenants/:name">{(p) => <Tenant key={p.name} name={p.name} />}</Route>
          <Route path="/settings">
            <Settings />
          </Route>
          <Route>
            <div className="page">
              <h1 className="hidden">{t("missing")}</h1>
              <Empty title={t("missing")}>
                <Link href="/">{t("missing.back")}</Link>
              </Empty>
            </div>
          </Route>
        </Switch>
      </Suspense>
    </Fault>
  );
}

/** Away is shown while the server does not answer at all. It asks again by itself. */
function Away() {
  useEffect(() => {
    const again = setTimeout(() => void begin(), 2000);
    return () => clearTimeout(again);
  });
  return (
    <main className="sign-in">
      <Empty title={t("away")}>
        <p>{t("away.hint")}</p>
        <button onClick={() => void begin()}>{t("action.retry")}</button>
      </Empty>
    </main>
  );
}

/** Fault is shown where a page breaks, or cannot be loaded because the server has another build by now. */
class Fault extends Component<{ at: string; children: ReactNode }, { error: unknown }> {
  override state = { error: null as unknown };

  override componentDidUpdate(before: { at: string }) {
    if (before.at !== this.props.at && this.state.error !== null) this.setState({ error: null });
  }

  static getDerivedStateFromError(error: unknown) {
    return { error };
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <div className="page">
        <h1 className="hidden">{t("fault")}</h1>
        <Empty title={t("fault")}>
          <p>{t("fault.hint")}</p>
          <p className="mono text">{String(this.state.error)}</p>
          <button className="primary" onClick={() => location.reload()}>
            {t("fault.reload")}
          </button>
        </Empty>
      </div>
    );
  }
}
