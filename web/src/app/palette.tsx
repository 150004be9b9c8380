import { Dialog } from "@base-ui/react/dialog";
import { useEffect, useId, useRef, useState } from "react";
import { useLocation } from "wouter";
import { speak, t, useLanguage } from "../i18n";
import { useQueues, useSchedules, useTenants } from "../rpc/every";
import { actFor, signOut, useSession } from "../rpc/session";
import { places } from "./places";
import { setTheme } from "./preferences";

interface Command {
  name: string;
  kind: string;
  run: () => void;
}

/** Palette finds a page, an object or an action by a part of its name. */
export default function Palette({ close }: { close: () => void }) {
  const [, go] = useLocation();
  const session = useSession();
  const language = useLanguage();
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const queues = useQueues(true);
  const schedules = useSchedules(true);
  const tenants = useTenants(session.admin);

  const to = (path: string) => () => go(path);
  const commands: Command[] = [
    ...places
      .filter((place) => !place.admin || session.admin)
      .map((place) => ({ name: t(place.name), kind: t("palette.page"), run: to(place.path) })),
    { name: t("nav.settings"), kind: t("palette.page"), run: to("/settings") },
    { name: t("queue.new"), kind: t("palette.action"), run: to("/queues?new=1") },
    { name: t("schedule.new"), kind: t("palette.action"), run: to("/schedules?new=1") },
    { name: language === "en" ? "中文" : "English", kind: t("palette.action"), run: () => void speak(language === "en" ? "zh" : "en") },
    { name: t("theme.light"), kind: t("palette.action"), run: () => setTheme("light") },
    { name: t("theme.dark"), kind: t("palette.action"), run: () => setTheme("dark") },
    ...(session.open ? [] : [{ name: t("session.out"), kind: t("palette.action"), run: signOut }]),
    ...(queues.data ?? []).map((q) => ({ name: q.name, kind: t("queue"), run: to(`/queues/${encodeURIComponent(q.name)}`) })),
    ...(schedules.data ?? []).map((s) => ({
      name: s.name,
      kind: t("schedule"),
      run: to(`/schedules/${encodeURIComponent(s.name)}`),
    })),
    ...(tenants.data ?? []).map((one) => ({
      name: one.name,
      kind: t("palette.act"),
      run: () => actFor(one.name === "default" ? "" : one.name),
    })),
  ];
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = commands
    .filter((command) => words.every((word) => `${command.kind} ${command.name}`.toLowerCase().includes(word)))
    .slice(0, 60);

  useEffect(() => list.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" }), [at]);

  function run(command: Command | undefined) {
    if (!command) return;
    close();
    command.run();
  }

  return (
    <Dialog.Root open onOpenChange={(open) => !open && close()}>
      <Dialog.Portal>
        <Dialog.Backdrop className="backdrop" />
        <Dialog.Popup className="dialog palette" aria-label={t("palette.open")}>
          <input
            role="combobox"
            aria-expanded="true"
            aria-controls={`${id}-list`}
            aria-activedescendant={found.length > 0 ? `${id}-${at}` : undefined}
            aria-label={t("palette.open")}
            placeholder={t("palette.hint")}
            value={text}
            autoFocus
            onChange={(e) => {
              setText(e.target.value);
              setAt(0);
            }}
            onKeyDown={(e) => {
              if (e.key === "ArrowDown") setAt(Math.min(found.length - 1, at + 1));
              else if (e.key === "ArrowUp") setAt(Math.max(0, at - 1));
              else if (e.key === "Enter") run(found[at]);
              else return;
              e.preventDefault();
            }}
          />
          <div role="listbox" id={`${id}-list`} ref={list} aria-label={t("palette.open")}>
            {found.map((command, i) => (
              <div
                key={`${command.kind} ${command.name}`}
                role="option"
                id={`${id}-${i}`}
                aria-selected={i === at}
                onPointerMove={() => setAt(i)}
                onClick={() => run(command)}
              >
                <span className="text">{command.name}</span>
                <span className="soft">{command.kind}</span>
              </div>
            ))}
          </div>
          {found.length === 0 && <div className="waiting">{t("palette.none")}</div>}
        </Dialog.Popup>
      </Dialog.Portal>
    </Dialog.Root>
  );
}
