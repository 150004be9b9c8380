// The library writes the descriptions of the document as markup, after it has sanitized them. The policy of the page wants that to pass
// here first: whatever could run or load something is not let through, whoever wrote it.
interface TrustedTypes {
  createPolicy(name: string, rules: { createHTML: (text: string) => string }): unknown;
}

const active = /<\s*\/?\s*(script|iframe|object|embed|base|link|meta|form|style)\b|\son\w+\s*=|javascript:/i;

const { trustedTypes } = window as { trustedTypes?: TrustedTypes };
trustedTypes?.createPolicy("default", { createHTML: (text) => (active.test(text) ? "" : text) });
