import { Dialog as Base } from "@base-ui/react/dialog";
import { useEffect, useRef, useState, type FormEvent, type ReactNode } from "react";
import { t } from "../i18n";
import { Failure } from "./state";

/** Dialog is a window over the page. It is there as long as it is rendered. */
export function Dialog({ title, wide, close, children }: { title: string; wide?: boolean; close: () => void; children: ReactNode }) {
  const popup = useRef<HTMLDivElement>(null);
  // Whatever had the focus may be gone with what the dialog showed before.
  useEffect(() => {
    if (document.activeElement === document.body) popup.current?.focus();
  });
  return (
    <Base.Root open onOpenChange={(open) => !open && close()}>
      <Base.Portal>
        <Base.Backdrop className="backdrop" />
        <Base.Popup
          ref={popup}
          className={wide ? "dialog wide" : "dialog"}
          initialFocus={() => popup.current?.querySelector<HTMLElement>("form input, form select, form textarea") ?? true}
        >
          <div className="dialog-head">
            <Base.Title render={<h2 />}>{title}</Base.Title>
            <Base.Close className="quiet" aria-label={t("action.close")}>
              ×
            </Base.Close>
          </div>
          {children}
        </Base.Popup>
      </Base.Portal>
    </Base.Root>
  );
}

/** FormDialog is a dialog whose form does something. It closes when that is done, and shows why it could not be done. */
export function FormDialog({
  title,
  action,
  danger,
  wide,
  disabled,
  submit,
  close,
  done = close,
  extra,
  children,
}: {
  title: string;
  action: string;
  danger?: boolean;
  wide?: boolean;
  disabled?: boolean;
  submit: () => Promise<unknown>;
  close: () => void;
  /** Called in place of close once it is done, where that leads to another page. */
  done?: () => void;
  extra?: ReactNode;
  children: ReactNode;
}) {
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  async function run(event: FormEvent) {
    event.preventDefault();
    event.stopPropagation();
    setBusy(true);
    setError(null);
    try {
      await submit();
      done();
    } catch (failure) {
      setError(failure);
    } finally {
      setBusy(false);
    }
  }
  return (
    <Dialog title={title} close={close} {...(wide ? { wide } : {})}>
      <form className="stack" onSubmit={(e) => void run(e)}>
        {children}
        {error !== null && <Failure error={error} />}
        <footer>
          {extra}
          <button type="button" onClick={close}>
            {t("action.cancel")}
          </button>
          <button className={danger ? "danger primary" : "primary"} disabled={busy || disabled}>
            {action}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}

/** Destroy asks before something is lost, and names it. The name has to be typed where much is lost with it. */
export function Destroy({
  title,
  name,
  typed,
  action,
  submit,
  close,
  extra,
  children,
}: {
  title: string;
  name: string;
  typed?: boolean;
  action: string;
  submit: () => Promise<unknown>;
  close: () => void;
  extra?: ReactNode;
  children: ReactNode;
}) {
  const [text, setText] = useState("");
  return (
    <FormDialog danger title={title} action={action} submit={submit} close={close} disabled={!!typed && text !== name} extra={extra}>
      <p>{children}</p>
      {typed && (
        <label className="stack">
          <span>{t("destroy.type", { name })}</span>
          <input value={text} onChange={(e) => setText(e.target.value)} autoComplete="off" spellCheck={false} />
        </label>
      )}
    </FormDialog>
  );
}
