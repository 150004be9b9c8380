import { lazy, Suspense, useEffect, useRef, useState, type ReactNode } from "react";
import { Link, useLocation } from "wouter";
import { speak, t, useLanguage } from "../i18n";
import { actFor, signOut, useSession } from "../rpc/session";
import { useTenants } from "../rpc/every";
import { useKeys } from "../ui/keys";
import { isHere, Mark, places } from "./places";
import { setTheme, useTheme, type Theme } from "./preferences";

const Palette = lazy(() => import("./palette"));
const Keys = lazy(() => import("./keys"));

/** Shell is what stays around every page. */
export function Shell({ children }: { children: ReactNode }) {
  const [path, go] = useLocation();
  const session = useSession();
  const [asked, setAsked] = useState<"palette" | "keys" | null>(null);
  const main = useRef<HTMLElement>(null);
  const here = places.filter((place) => !place.admin || session.admin);

  useKeys({
    "?": () => setAsked("keys"),
    "/": () => document.querySelector<HTMLInputElement>("main input[type=search]")?.focus(),
    ...Object.fromEntries(here.map((place) => [`g ${place.key}`, () => go(place.path)])),
  });
  useEffect(() => {
    function onKey(e: KeyboardEvent) {
      if (e.key.toLowerCase() === "k" && (e.ctrlKey || e.metaKey)) {
        e.preventDefault();
        setAsked((before) => (before === "palette" ? null : "palette"));
      }
    }
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
  useEffect(() => {
    const place = places.find((p) => isHere(p.path, path));
    const rest = path.split("/").slice(2).map(decode).join(" ");
    document.title = [rest, place && t(place.name), "Plinth"].filter(Boolean).join(" · ");
  }, [path]);

  return (
    <div className="frame">
      <a className="skip" href="#main" onClick={(e) => (e.preventDefault(), main.current?.focus())}>
        {t("nav.skip")}
      </a>
      <nav className="side" aria-label={t("nav")}>
        <Link className="brand" href="/" aria-label={t("nav.home")}>
          <Mark />
          <span>Plinth</span>
        </Link>
        <div className="nav">
          {here.map((place) => (
            <Link key={place.path} href={place.path} aria-current={isHere(place.path, path) ? "page" : undefined}>
              {t(place.name)}
            </Link>
          ))}
          <Link href="/settings" aria-current={isHere("/settings", path) ? "page" : undefined}>
            {t("nav.settings")}
          </Link>
          <a href="/docs">{t("nav.docs")}</a>
        </div>
        <div className="side-foot">
          <span className="soft">
            <kbd>?</kbd> {t("keys")}
          </span>
        </div>
      </nav>
      <div className="main">
        <header className="top">
          <button onClick={() => setAsked("palette")} aria-keyshortcuts="Control+K">
            {t("palette.open")} <kbd>Ctrl K</kbd>
          </button>
          <span className="grow" />
          {session.admin && <Acting />}
          <LanguageChoice />
          <ThemeChoice />
          {!session.open && <button onClick={signOut}>{t("session.out")}</button>}
        </header>
        <main id="main" ref={main} tabIndex={-1}>
          {children}
        </main>
      </div>
      <Suspense>
        {asked === "palette" && <Palette close={() => setAsked(null)} />}
        {asked === "keys" && <Keys close={() => setAsked(null)} />}
      </Suspense>
    </div>
  );
}

/** decode returns what a part of a path says, or the part itself if it is not well formed. */
function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Acting shows at all times for which tenant an administrator acts. */
function Acting() {
  const { tenant } = useSession();
  const { data } = useTenants();
  const names = new Set(["default", ...(data?.map((one) => one.name) ?? []), ...(tenant ? [tenant] : [])]);
  return (
    <label className={tenant && tenant !== "default" ? "acting other" : "acting"}>
      <span>{t("session.acting")}</span>
      <select value={tenant || "default"} onChange={(e) => actFor(e.target.value === "default" ? "" : e.target.value)}>
        {[...names].sort().map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

export function LanguageChoice() {
  const language = useLanguage();
  return (
    <button lang={language === "en" ? "zh-CN" : "en"} onClick={() => void speak(language === "en" ? "zh" : "en")}>
      {language === "en" ? "中文" : "English"}
    </button>
  );
}

export function ThemeChoice() {
  const theme = useTheme();
  return (
    <select aria-label={t("theme")} value={theme} onChange={(e) => setTheme(e.target.value as Theme)}>
      <option value="system">{t("theme.system")}</option>
      <option value="light">{t("theme.light")}</option>
      <option value="dark">{t("theme.dark")}</option>
    </select>
  );
}
