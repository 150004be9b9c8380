import { rate, t } from "../i18n";

/** Chart draws rates over the last minutes, a line each. Its words tell the last values to those who do not see it. */
export function Chart({ label, lines }: { label: string; lines: { name: string; values: number[] }[] }) {
  const points = 60;
  const most = Math.max(1, ...lines.flatMap((line) => line.values));
  return (
    <div>
      <svg
        className="chart"
        viewBox={`0 0 ${points - 1} 40`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${label}: ${lines.map((line) => `${line.name} ${rate(line.values.at(-1) ?? 0)}`).join(", ")}`}
      >
        <line x1="0" x2={points - 1} y1="39.5" y2="39.5" />
        <line x1="0" x2={points - 1} y1="0.5" y2="0.5" />
        {lines.map((line, i) => (
          <path key={line.name} className={`line-${i + 1}`} d={path(line.values.slice(-points), points, most)} />
        ))}
      </svg>
      <div className="legend">
        {lines.map((line, i) => (
          <span key={line.name} className={["one", "two", "three"][i]}>
            {line.name} <strong>{rate(line.values.at(-1) ?? 0)}</strong>/s
          </span>
        ))}
        <span className="soft no-line">{t("chart.most", { n: rate(most) })}</span>
      </div>
    </div>
  );
}

function path(values: number[], points: number, most: number): string {
  const first = points - values.length;
  return values.map((value, i) => `${i === 0 ? "M" : "L"}${first + i} ${(39 - (value / most) * 38).toFixed(2)}`).join("");
}
