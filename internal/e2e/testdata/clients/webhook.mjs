// Verifies calls of a push of Plinth with the library of Standard Webhooks. A call is its headers and its body in base64, with the secrets that
// it has to be signed by, and one that it must not be: node --input-type=module - '[{"headers":{},"body":"","secrets":[],"wrong":""}]' <webhook.mjs
import { Webhook } from "standardwebhooks";

const calls = JSON.parse(process.argv[2]);
for (const { headers, body, secrets, wrong } of calls) {
  const payload = Buffer.from(body, "base64").toString("utf8");
  for (const secret of secrets) {
    new Webhook(secret).verify(payload, headers);
  }
  for (const forged of [() => new Webhook(wrong).verify(payload, headers), () => new Webhook(secrets[0]).verify(payload + " ", headers)]) {
    let refused = false;
    try {
      forged();
    } catch {
      refused = true;
    }
    if (!refused) {
      throw new Error("what is forged is verified");
    }
  }
}
console.log(JSON.stringify({ verified: calls.length }));
