import { useSyncExternalStore } from "react";
import { t } from "../i18n";
import { describe } from "./state";

interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

let toasts: Toast[] = [];
let last = 0;
const listeners = new Set<() => void>();

function set(to: Toast[]) {
  toasts = to;
  for (const listener of listeners) listener();
}

const close = (id: number) => set(toasts.filter((toast) => toast.id !== id));

/** tell says what has happened, for some seconds. */
export function tell(text: string, bad = false) {
  const id = ++last;
  set([...toasts.slice(-3), { id, text, bad }]);
  setTimeout(() => close(id), bad ? 12_000 : 5_000);
}

/** tellError says what went wrong. */
export function tellError(error: unknown) {
  const { message, hint } = describe(error);
  tell(hint ? `${message} ${hint}` : message, true);
}

export function Toasts() {
  const shown = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => toasts,
  );
  return (
    <div className="toasts" role="status" aria-live="polite">
      {shown.map((toast) => (
        <div key={toast.id} className={toast.bad ? "toast bad" : "toast"}>
          <div className="grow text">{toast.text}</div>
          <button className="quiet" aria-label={t("action.close")} onClick={() => close(toast.id)}>
            ×
          </button>
        </div>
      ))}
    </div>
  );
}
