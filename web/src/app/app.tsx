import { Component, lazy, Suspense, useEffect, type ReactNode } from "react";
import { Link, Route, Switch, useLocation } from "wouter";
import { t, useLanguage } from "../i18n";
import { begin, useSession } from "../rpc/session";
import { Empty, Waiting } from "../ui/state";
import { Toasts } from "../ui/toast";
import { Shell } from "./shell";
import { SignIn } from "./sign-in";

// Each page is loaded when it is opened.
const overview = () => import("../features/overview/page");
const queues = () => import("../features/messages/queues");
const queue = () => import("../features/messages/queue");
const schedules = () => import("../features/schedules/list");
const schedule = () => import("../features/schedules/schedule");
const files = () => import("../features/files/page");
const channels = () => import("../features/channels/page");
const cache = () => import("../features/cache/page");
const locks = () => import("../features/locks/page");
const tenants = () => import("../features/tenants/list");
const tenant = () => import("../features/tenants/tenant");
const settings = () => import("./settings");

const Overview = lazy(overview);
const Queues = lazy(queues);
const Queue = lazy(queue);
const Schedules = lazy(schedules);
const Schedule = lazy(schedule);
const Files = lazy(files);
const Channels = lazy(channels);
const Cache = lazy(cache);
const Locks = lazy(locks);
const Tenants = lazy(tenants);
const Tenant = lazy(tenant);
const Settings = lazy(settings);

/** ahead begins to load the page of a path, while the server is still asked who wants to see it. */
export function ahead(path: string) {
  const [, first = "", name] = path.split("/");
  const pages: Record<string, () => Promise<unknown>> = {
    "": overview,
    queues: name ? queue : queues,
    schedules: name ? schedule : schedules,
    files,
    channels,
    cache,
    locks,
    tenants: name ? tenant : tenants,
    settings,
  };
  pages[first]?.().catch(() => {}); // Whoever opens the page is told.
}

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
