import { t } from "../i18n";
import { useSession } from "../rpc/session";
import { Dialog } from "../ui/dialog";
import { places } from "./places";

/** Keys lists what the keyboard does. */
export default function Keys({ close }: { close: () => void }) {
  const { admin } = useSession();
  const keys: [string, string][] = [
    ["Ctrl K", t("keys.palette")],
    ["?", t("keys.help")],
    ["/", t("keys.search")],
    ["j k", t("keys.move")],
    ["Enter", t("keys.open")],
    ["x", t("keys.select")],
    ...places.filter((p) => !p.admin || admin).map((p): [string, string] => [`g ${p.key}`, t(p.name)]),
  ];
  return (
    <Dialog title={t("keys")} close={close}>
      <dl className="pairs">
        {keys.map(([key, name]) => (
          <div key={key} className="contents">
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{name}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
