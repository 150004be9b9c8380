import { useEffect } from "react";

/** typing reports whether a key is for a control or for a dialog, and not for the page. */
export function typing(e: KeyboardEvent): boolean {
  if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || document.querySelector("[role=dialog], [role=menu]")) return true;
  const at = e.target;
  return at instanceof HTMLElement && (at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName));
}

/** useKeys has keys of the page do something, alone or after a g, as in "g q". */
export function useKeys(keys: Record<string, () => void>) {
  useEffect(() => {
    let prefix = "";
    let at = 0;
    function onKey(e: KeyboardEvent) {
      if (typing(e)) return;
      const name = prefix && e.timeStamp - at < 1500 ? `${prefix} ${e.key}` : e.key;
      prefix = e.key === "g" ? "g" : "";
      at = e.timeStamp;
      const act = keys[name];
      if (act) {
        e.preventDefault();
        act();
      }
    }
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  });
}
