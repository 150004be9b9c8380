// Uses the console in headless Chromium, as people do:
// PLINTH_API_KEY=... node --input-type=module - <folder of the steps> <where what is, as JSON> <console.mjs
//
// It prints JSON: for each step what went wrong, and nothing if all went well. Pictures of the pages go into the folder, if there is one.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { runnerImport } from "vite";

const [folder, where] = process.argv.slice(2);
const { chromium: executablePath, server, direct, protos, acme, beta, many, other, faults, issuer, pictures } = JSON.parse(where);
const admin = process.env.PLINTH_API_KEY;
const full = process.env.CI === "true";
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});

// How the console is looked at. What is done in both ways is done for a tenant each, so that neither sees the other.
const wide = { width: 1280, colorScheme: "light", language: "en", key: acme };
const narrow = { width: 360, colorScheme: "dark", language: "zh", key: beta };

const texts = { en: (await runnerImport("./src/i18n/en.ts")).module.en, zh: (await runnerImport("./src/i18n/zh.ts")).module.zh };

// What no page may do, whatever it shows.
const crimes = [];

// Visit is what a step has of the browser: pages in one look, which are closed when it is over.
class Visit {
  contexts = [];

  constructor(look) {
    Object.assign(this, look);
    this.locale = { en: "en-US", zh: "zh-CN" }[look.language];
    this.t = (key, values = {}) => this.#text(key, values);
  }

  // The text of a key, as the console writes it.
  #text(key, values) {
    const text = texts[this.language][key];
    if (text === undefined) throw new Error(`there is no text ${key}`);
    return text.replace(/\{(\w+)(?:\|([^|}]*)\|([^}]*))?\}/g, (_, name, one, other) =>
      one === undefined ? String(values[name] ?? "") : Number(values[name]) === 1 ? one : other,
    );
  }

  // newContext opens a browser of its own, whose pages call the server alone, or another origin, too.
  async newContext(options = {}, besides = server) {
    const { width, colorScheme, locale } = this;
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, locale, ...options });
    this.contexts.push(context);
    context.setDefaultTimeout(60_000); // The machine may be busy.
    context.on("page", (page) => {
      page.on("request", (request) => {
        const url = request.url();
        const within = /^(blob|data|chrome|chrome-extension):/; // The last two are the browser's own viewer of PDF.
        if (!url.startsWith(`${server}/`) && !url.startsWith(`${besides}/`) && !within.test(url)) crimes.push(`a request goes to ${url}`);
      });
      page.on("console", (line) => {
        if (/Content.Security.Policy|TrustedHTML|TrustedScript/i.test(line.text())) crimes.push(`${page.url()}: ${line.text()}`);
      });
      page.on("pageerror", (error) => crimes.push(`${page.url()}: ${error}`));
      page.on("dialog", (dialog) => {
        if (dialog.type() !== "beforeunload") crimes.push(`${page.url()}: a script ran, and says ${dialog.message()}`);
        void dialog.accept();
      });
    });
    return context;
  }

  // signedIn opens a page with a key, which the tab remembers.
  async signedIn(key, path = "/", values = {}) {
    const context = await this.newContext();
    await remember(context, { "plinth.key": key, ...values });
    const page = await context.newPage();
    await page.goto(server + path);
    return page;
  }

  async tab(page, key) {
    await page.locator(".tabs").getByRole("link", { name: this.t(key) }).click();
  }

  // fact waits for a number at a glance.
  async fact(page, key, value) {
    await page.locator(".fact", { hasText: this.t(key) }).locator("dd", { hasText: new RegExp(`^${value}$`) }).first().waitFor();
  }

  async over() {
    for (const context of this.contexts) await context.close();
  }
}

// remember has every page of the server find values in the session storage.
function remember(context, values) {
  return context.addInitScript(
    ([origin, values]) => location.href.startsWith(`${origin}/`) && Object.entries(values).forEach(([name, value]) => sessionStorage.setItem(name, value)),
    [server, values],
  );
}

async function call(key, service, method, body) {
  const res = await fetch(`${direct}/${service}/${method}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
    body: JSON.stringify(body),
  });
  const reply = await res.json();
  if (!res.ok) throw new Error(`${method}: ${JSON.stringify(reply)}`);
  return reply;
}
const messages = (key, method, body) => call(key, "plinth.message.v1.MessageService", method, body);

// nack gives the next message of a queue back, whose only attempt it was, and waits until it is a dead letter.
async function nack(key, queue, reason) {
  const definition = protoLoader.loadFileDescriptorSetFromBuffer(readFileSync(protos), { json: true });
  const { MessageService } = grpc.loadPackageDefinition(definition).plinth.message.v1;
  const client = new MessageService(new URL(direct).host, grpc.credentials.createInsecure());
  const stream = client.consume(grpc.Metadata.fromHttp2Headers({ authorization: `Bearer ${key}` }), { deadline: Date.now() + 30_000 });
  stream.write({ subscribe: { queue, max_outstanding: 1 } });
  const [{ messages: [received] }] = await once(stream, "data");
  stream.on("error", () => {}); // It is cancelled below.
  stream.write({ nack: { items: [{ id: received.id, reason }] } });
  while (!Number((await messages(key, "GetQueue", { name: queue })).deadLetters ?? 0));
  stream.cancel();
  client.close();
}

// inject has something go away, or come back.
function inject(fault) {
  return fetch(`${faults}/${fault}`, { method: "POST" });
}

function check(holds, what) {
  if (!holds) throw new Error(what);
}

// look adds what axe finds on a page that has it.
async function look(page, at, faults, options = {}) {
  const { violations } = await page.evaluate((options) => window.axe.run(document, { resultTypes: ["violations"], ...options }), options);
  for (const { id, nodes } of violations) faults.push(`${at}: ${id}: ${nodes[0].html} ${nodes[0].failureSummary}`);
}

const kit = {
  server, issuer, faults, pictures, admin, acme, beta, many, other, wide, narrow, axe,
  Visit, call, messages, nack, inject, check, look,
  hostile: `<img src=x onerror="alert(1)"><script>alert(2)</script>\u202Egnp.exe`,
};
const steps = {};
for (const file of ["sign-in", "messages", "schedules", "stores", "tenants", "faults", "awkward", "pages"]) {
  Object.assign(steps, (await import(new URL(`${file}.mjs`, pathToFileURL(`${folder}/`)))).default(kit));
}

// What people do most is done in both ways.
const both = [
  "sign in", "messages", "from a failure to its end", "schedules", "a large upload", "files", "isolation", "a key that is revoked while it is used",
];

// What is tried without CI=true, and how.
const usual = { "sign in": wide, "from a failure to its end": narrow, schedules: wide, files: narrow };

// What waits most of its time, and needs nothing of the others: it is tried beside them.
const patient = ["sign in at an issuer", "the server away and back"];

const outcome = {};

async function take(name, as) {
  const title = as === wide ? name : `${name}, narrow, dark and in Chinese`;
  const before = crimes.length;
  const begun = Date.now();
  const visit = new Visit(as);
  try {
    await steps[name](visit);
    outcome[title] = "";
  } catch (error) {
    outcome[title] = String(error.stack ?? error);
    for (const page of visit.contexts.flatMap((context) => context.pages())) {
      outcome[title] += `\n${page.url()}: ${await page.locator("body").innerText().catch(() => "")}`.slice(0, 1500);
    }
  }
  await visit.over();
  console.error(`${title}: ${Date.now() - begun} ms`);
  if (crimes.length > before) outcome[title] += `\n${crimes.slice(before).join("\n")}`;
}

try {
  const wanted = Object.keys(steps).filter((name) => full || usual[name]);
  const aside = Promise.all(wanted.filter((name) => patient.includes(name)).map((name) => take(name, wide)));
  for (const name of wanted.filter((name) => !patient.includes(name))) {
    if (name === "channels") await aside; // It is the first that has the network go away.
    if (!full) await take(name, usual[name] ?? wide);
    else if (name === "a large upload") { // It has the network go away, for everybody.
      await take(name, wide);
      await take(name, narrow);
    } else await Promise.all([take(name, wide), both.includes(name) && take(name, narrow)]);
  }
  await aside;
} finally {
  await browser.close();
}
console.log(JSON.stringify(outcome));
