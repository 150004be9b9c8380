/** parseAttributes reads lines of the form "key=value". It returns the number of the first line that is none, from 1. */
export function parseAttributes(text: string): Record<string, string> | number {
  const attributes: Record<string, string> = {};
  for (const [i, line] of text.split("\n").entries()) {
    if (!line.trim()) continue;
    const at = line.indexOf("=");
    if (at < 1) return i + 1;
    attributes[line.slice(0, at).trim()] = line.slice(at + 1);
  }
  return attributes;
}

export function writeAttributes(attributes: Record<string, string>): string {
  return Object.entries(attributes)
    .map(([key, value]) => `${key}=${value}`)
    .join("\n");
}
