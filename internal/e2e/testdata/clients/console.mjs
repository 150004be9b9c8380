// Uses the console in headless Chromium, as people do:
// PLINTH_API_KEY=... node --input-type=module - <chromium> <URL of Plinth> <URL without faults> <descriptor set> <key of acme> <key of other> <URL of faults> <URL of the issuer> <folder> <console.mjs
//
// It prints JSON: for each step what went wrong, and nothing if all went well. Pictures of the pages go into the folder, if there is one.
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { promisify } from "node:util";
import { brotliCompressSync } from "node:zlib";
import { chromium } from "playwright-core";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [executablePath, server, direct, protos, acme, other, faultsURL, issuer, pictures] = process.argv.slice(2);
const admin = process.env.PLINTH_API_KEY;
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});

// What no page may do, whatever it shows.
const crimes = [];

// The files of the build that a page loads, by its path.
const loaded = new Map();

// newContext opens a browser of its own, whose pages call the server alone, or another origin, too.
async function newContext(options = {}, besides = server) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-US", ...options });
  context.setDefaultTimeout(20_000);
  context.on("page", (page) => {
    page.on("request", (request) => {
      const url = request.url();
      if (!url.startsWith(`${server}/`) && !url.startsWith(`${besides}/`) && !/^(blob|data):/.test(url)) crimes.push(`a request goes to ${url}`);
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

// remember has every page of the server find values in the session storage.
function remember(context, values) {
  return context.addInitScript(
    ([origin, values]) => location.origin === origin && Object.entries(values).forEach(([name, value]) => sessionStorage.setItem(name, value)),
    [server, values],
  );
}

// signedIn opens a page with a key, which the tab remembers.
async function signedIn(key, path = "/", options = {}) {
  const context = await newContext(options);
  await remember(context, { "plinth.key": key });
  const page = await context.newPage();
  await page.goto(server + path);
  return page;
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
  return fetch(`${faultsURL}/${fault}`, { method: "POST" });
}

function check(holds, what) {
  if (!holds) throw new Error(what);
}

const hostile = `<img src=x onerror="alert(1)"><script>alert(2)</script>\u202Egnp.exe`;

// What is tried without CI=true.
const usual = ["sign in", "sign in at an issuer", "messages", "from a failure to its end", "schedules", "files"];

// What waits most of its time, and needs nothing of the others: it is tried beside them.
const patient = ["sign in at an issuer", "the server away and back"];

const steps = {
  async "sign in"() {
    const context = await newContext();
    const page = await context.newPage();
    await page.goto(`${server}/queues`);
    await page.getByLabel("API key").fill("plinth_wrong");
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
    await page.getByText("The server does not know this key").waitFor();
    await page.getByLabel("API key").fill(acme);
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
    await page.getByRole("heading", { name: "Queues", level: 1 }).waitFor();
    const kept = await page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie]));
    check(!kept.includes("plinth_"), `the browser keeps ${kept}`);
    await page.reload();
    await page.getByLabel("API key").fill(acme);
    await page.getByLabel("Remember it in this tab").check();
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
    await page.getByRole("heading", { name: "Queues", level: 1 }).waitFor();
    await page.reload();
    await page.getByRole("heading", { name: "Queues", level: 1 }).waitFor();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("API key").waitFor();
    await context.close();
  },

  // The browser goes to the issuer and comes back to where it was. The token is renewed while one works, until the issuer gives none any more.
  async "sign in at an issuer"() {
    const seen = async (fault = "seen") => (await inject(`issuer/${fault}`)).json();
    const context = await newContext({}, issuer);
    const page = await context.newPage();
    const go = page.getByRole("button", { name: `Sign in at ${new URL(issuer).host}` });
    const queues = page.getByRole("heading", { name: "Queues", level: 1 });
    const response = await page.goto(`${server}/queues?name=x`);
    const policy = response.headers()["content-security-policy"];
    check(policy.includes(`; connect-src 'self' ${issuer}; `), `the policy is ${policy}`);
    await seen("deny");
    await go.click();
    await page.getByRole("alert").getByText("Ada may not").waitFor();
    check(page.url() === `${server}/queues?name=x`, `the page is at ${page.url()}`);
    await seen("mistake");
    await go.click();
    await page.getByRole("alert").getByText("the token is for another audience").waitFor();
    await seen("mistaken");
    await page.goto(`${server}/?code=stolen&state=of-another`);
    await page.getByRole("alert").getByText("belongs to no sign-in that this tab began").waitFor();
    check(page.url() === `${server}/`, `the page is at ${page.url()}`);

    await page.goto(`${server}/queues?name=x`);
    await go.click();
    await queues.waitFor();
    check(page.url() === `${server}/queues?name=x`, `the page is at ${page.url()}`);
    const kept = () => page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie]));
    check(!/eyJ|state|verifier/.test(await kept()), `the browser keeps ${await kept()}`);
    await page.goto(`${server}/queues`);
    await page.getByLabel("Remember it in this tab").check();
    await go.click();
    await queues.waitFor();
    await page.reload();
    await queues.waitFor();
    await page.getByRole("button", { name: "New queue" }).click();
    await page.getByLabel("Name", { exact: true }).fill("half-writ");
    const before = (await seen()).renewals;
    while ((await seen()).renewals < before + 2) await page.waitForTimeout(200);
    check((await page.getByLabel("Name", { exact: true }).inputValue()) === "half-writ", "a renewal takes away what was written");
    await page.keyboard.press("Escape");
    await page.getByRole("link", { name: "Settings" }).click();
    await page.getByText("Ada", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Sign out" }).first().click();
    await go.waitFor();
    check(!/eyJ/.test(await kept()), `after signing out the browser keeps ${await kept()}`);
    while ((await seen()).revoked === 0) await page.waitForTimeout(100);
    await go.click();
    await page.getByRole("button", { name: "Sign out" }).first().waitFor();
    const { prompts } = await seen();
    check(prompts.at(-1) === "login" && !prompts.slice(0, -1).includes("login"), `the issuer was asked with the prompts ${JSON.stringify(prompts)}`);
    await seen("forget");
    await page.getByRole("alert").getByText("has expired, or was revoked. Sign in again.").waitFor();
    await context.close();
  },

  // A message is published, fails, is found among the dead letters, sent back, and is in the queue again.
  async messages() {
    const page = await signedIn(acme, "/queues?new=1");
    await page.getByLabel("Name", { exact: true }).fill("orders");
    await page.getByLabel("Attempts before a message is dead").fill("1");
    await page.getByRole("button", { name: "Create" }).click();
    await tab(page, "Publish");
    await page.getByLabel("Payload").fill(`{"order": 17, "note": ${JSON.stringify(hostile)}}`);
    await page.getByLabel("Attributes").fill("source=console");
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await page.getByText("Published:").waitFor();
    await tab(page, "Overview");
    await fact(page, "Depth", "1");
    await nack(acme, "orders", hostile);
    await tab(page, "Dead letters");
    await page.getByRole("button", { name: hostile }).click();
    const letter = page.getByRole("dialog");
    await letter.getByText('"order": 17').waitFor();
    await letter.getByLabel("Find in the payload").fill("ORDER");
    await letter.getByText("1 match", { exact: true }).waitFor();
    check((await letter.getByText("alert(2)").count()) > 0, "the payload is not shown as text");
    await letter.getByRole("button", { name: "Close" }).click();
    await page.getByLabel("Reason contains").fill("nothing like that");
    await page.getByText("Nothing matches the filter").waitFor();
    check(page.url().includes("reason=nothing"), `the filter is not in ${page.url()}`);
    await page.getByRole("button", { name: "Clear the filter" }).click();
    await page.getByRole("button", { name: "Redrive all" }).click();
    await page.getByText("1 dead letter goes back to the queue").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Redrive 1" }).click();
    await page.getByText("Done: 1.").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).last().click();
    await page.getByText("There are no dead letters").waitFor();
    await tab(page, "Overview");
    await fact(page, "Depth", "1");
    const queue = await messages(acme, "GetQueue", { name: "orders" });
    check(queue.depth === "1" && !Number(queue.deadLetters), `the server says ${JSON.stringify(queue)}`);
    await page.context().close();
  },

  // Messages are seen as they come, also while one reads on further up, and none is taken.
  async "live tail"() {
    await messages(acme, "CreateQueue", { name: "tailed" });
    const page = await signedIn(acme, "/queues/tailed/tail");
    await page.getByText("Nothing has come yet").waitFor();
    const log = page.getByRole("log");
    const publish = (name, n) => messages(acme, "PublishBatch", { messages: Array.from({ length: n }, (_, i) => ({ queue: "tailed", message: `${name} ${i}.` })) });
    await publish("early", 250); // More than a page of the list.
    await log.getByText("early 249.").waitFor();
    await log.evaluate((e) => e.scrollTo(0, 0));
    await page.getByText("Paused", { exact: true }).waitFor();
    await publish("late", 1);
    await page.waitForTimeout(1500);
    check((await log.getByText("late 0.").count()) === 0, "a message moves what is being read");
    await page.getByRole("button", { name: "Go on" }).click();
    await log.getByText("late 0.").click();
    await page.getByRole("dialog").getByText("late 0.").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
    check((await log.getByRole("button").count()) === 251, `${await log.getByRole("button").count()} messages are shown`);
    const { depth } = await messages(acme, "GetQueue", { name: "tailed" });
    check(depth === "251", `${depth} messages are left`);
    await messages(acme, "DeleteQueue", { name: "tailed" });
    await page.context().close();
  },

  // A message is seen coming, fails, is found, mended, sent back and handled.
  async "from a failure to its end"() {
    await messages(acme, "CreateQueue", { name: "way", maxAttempts: 1 });
    const page = await signedIn(acme, "/queues/way/publish");
    await page.getByLabel("Payload").fill('{"amount": null}');
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    await tab(page, "Tail");
    await page.getByRole("log").getByText('{"amount": null}').waitFor();
    await tab(page, "Messages");
    await page.getByRole("cell", { name: '{"amount": null}' }).waitFor();
    await nack(acme, "way", "there is no amount");
    await tab(page, "Dead letters");
    await page.getByRole("button", { name: "there is no amount" }).click();
    const letter = page.getByRole("dialog");
    await letter.getByRole("button", { name: "Edit and publish" }).click();
    await letter.getByLabel("Payload").first().fill('{"amount": 3}');
    await letter.getByText('- {"amount": null}').waitFor();
    await letter.getByText('+ {"amount": 3}').waitFor();
    await letter.getByLabel("Remove the dead letter").check();
    await letter.getByRole("button", { name: "Publish the edited message" }).click();
    await page.getByText("There are no dead letters").waitFor();
    const { messages: [pulled] } = await messages(acme, "Pull", { queue: "way", wait: "5s", maxMessages: 1 });
    check(Buffer.from(pulled.payload, "base64").toString() === '{"amount": 3}', `${pulled.payload} was published`);
    await tab(page, "Messages");
    await page.getByLabel("Which").selectOption("pulled");
    await page.getByRole("cell", { name: '{"amount": 3}' }).waitFor();
    await messages(acme, "Ack", { queue: "way", receipts: [pulled.receipt] });
    await page.getByText("There are no such messages").waitFor();
    await tab(page, "Overview");
    await fact(page, "Depth", "0");
    await page.context().close();
  },

  // The page of a queue tells how its push does.
  async "a push whose endpoint fails"() {
    const push = { url: `${faultsURL}/hook` };
    await messages(acme, "CreateQueue", { name: "pushed", push, minBackoff: "0.01s", maxBackoff: "0.01s", maxAttempts: 1000 });
    await messages(acme, "Publish", { queue: "pushed", message: "one" });
    const page = await signedIn(acme, "/queues/pushed");
    await page.getByText(push.url).waitFor();
    await page.getByText("Open: no calls are made").waitFor();
    await page.getByText("500").first().waitFor();
    await page.getByText(/^\d of at most \d+$/).waitFor();
    await messages(acme, "DeleteQueue", { name: "pushed" });
    await page.context().close();
  },

  async "waiting messages"() {
    for (const message of ["one", "two", "three"]) await messages(acme, "Publish", { queue: "way", message, delay: "3600s" });
    const page = await signedIn(acme, "/queues/way/waiting");
    await page.getByRole("cell", { name: "three" }).waitFor();
    const row = (name) => page.getByRole("row", { name });
    await row("one").getByRole("checkbox").check();
    await row("two").getByRole("checkbox").check();
    await page.getByRole("button", { name: "Cancel selected…" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Cancel the messages" }).click();
    await page.getByText("2 messages were cancelled.").waitFor();
    await row("one").waitFor({ state: "detached" });
    await row("three").waitFor();
    await page.context().close();
  },

  // However many tabs watch a queue, the browser has one stream. When its tab is closed, another tab has it.
  async "one stream of all tabs"() {
    const first = await signedIn(acme, "/queues/way");
    const context = first.context();
    const streams = [];
    context.on("request", (request) => request.url().endsWith("/WatchQueue") && streams.push(request.frame().page()));
    await first.reload();
    for (let i = 0; i < 100 && streams.length < 1; i++) await first.waitForTimeout(100);
    const second = await context.newPage();
    await second.goto(`${server}/queues/way`);
    await messages(acme, "Publish", { queue: "way", message: "four" });
    for (const page of [first, second]) await fact(page, "Depth", "1");
    check(streams.length === 1 && streams[0] === first, `${streams.length} streams were opened`);
    await first.close();
    for (let i = 0; i < 50 && streams.length < 2; i++) await second.waitForTimeout(100);
    check(streams.length === 2 && streams[1] === second, `after the first tab, ${streams.length} streams were opened`);
    await context.close();
  },

  async "edit and publish"() {
    await nack(acme, "orders", "the amount is missing");
    const page = await signedIn(acme, "/queues/orders/dead");
    await page.getByRole("button", { name: "the amount is missing" }).click();
    const letter = page.getByRole("dialog");
    await letter.getByRole("button", { name: "Edit and publish" }).click();
    await letter.getByLabel("Payload").first().fill('{"order": 18}');
    await letter.getByText('+ {"order": 18}').waitFor();
    await letter.getByLabel("Remove the dead letter").check();
    await letter.getByRole("button", { name: "Publish the edited message" }).click();
    await page.getByText("There are no dead letters").waitFor();
    await page.context().close();
  },

  async "waiting, pause and purge"() {
    const { id } = await messages(acme, "Publish", { queue: "orders", message: "later", delay: "3600s" });
    const page = await signedIn(acme, `/queues/orders/waiting?id=${id}`);
    await page.getByRole("button", { name: "Cancel the message" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Cancel the message" }).click();
    await page.getByText("The message was cancelled.").waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByRole("button", { name: "Resume" }).waitFor();
    check((await messages(acme, "GetQueue", { name: "orders" })).paused, "the queue is not paused");
    await page.getByRole("button", { name: "Resume" }).click();
    await page.getByRole("button", { name: "Purge…" }).click();
    const dialog = page.getByRole("dialog");
    check(await dialog.getByRole("button", { name: "Purge…" }).isDisabled(), "a queue is purged without its name");
    await dialog.getByRole("textbox").fill("orders");
    await dialog.getByRole("button", { name: "Purge…" }).click();
    await page.getByText("1 message was removed.").waitFor();
    await page.context().close();
  },

  // A command that was copied does the same, whatever is in it, and holds no key.
  async "copy as curl"() {
    const page = await signedIn(acme, "/queues/orders/publish");
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    const text = `it's "$HOME" \`id\` ${hostile}`;
    await page.getByLabel("Payload").fill(text);
    await page.getByLabel("Delay").fill("1 h");
    await page.getByRole("button", { name: "curl", exact: true }).click();
    await page.getByText("Copied.").waitFor();
    const command = await page.evaluate(() => navigator.clipboard.readText());
    check(!command.includes("plinth_"), `the key is in ${command}`);
    const { stdout } = await promisify(execFile)("sh", ["-c", `${command} --silent`], { env: { ...process.env, PLINTH_API_KEY: acme } });
    const { id } = JSON.parse(stdout);
    const { payload } = await messages(acme, "GetMessage", { id });
    check(Buffer.from(payload, "base64").toString() === text, `the command publishes ${payload}`);
    await messages(acme, "CancelMessage", { id });
    await page.context().close();
  },

  async schedules() {
    const page = await signedIn(acme, "/schedules?new=1");
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name", { exact: true }).fill("tick");
    await dialog.getByLabel("Expression").fill("nonsense");
    await dialog.getByRole("alert").waitFor();
    await dialog.getByLabel("Expression").fill("30 2 * * *");
    await dialog.getByLabel("Time zone").fill("Europe/Berlin");
    await dialog.getByText(/02:30/).first().waitFor();
    await dialog.getByLabel("Expression").fill("* * * * * *");
    await dialog.getByText(/every second/i).first().waitFor();
    await dialog.getByLabel("Queue").fill("orders");
    await dialog.getByLabel("Payload").fill("tick {{fire_time}}");
    await dialog.getByRole("button", { name: "Create" }).click();
    await page.getByRole("cell", { name: "Succeeded" }).first().waitFor();
    await page.getByRole("row").nth(1).getByRole("button").click();
    await page.getByRole("dialog").getByText("its fire time").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).last().click();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByLabel("Note").fill(hostile);
    await page.getByRole("dialog").getByRole("button", { name: "Pause" }).click();
    await page.getByText("Paused by").waitFor();
    await tab(page, "Changes");
    await page.getByRole("cell", { name: "Created" }).waitFor();
    await page.context().close();
  },

  // What a backfill runs is shown before, and is what runs.
  async backfill() {
    await messages(acme, "CreateQueue", { name: "filled" });
    await call(acme, "plinth.schedule.v1.ScheduleService", "Create", {
      name: "hourly", cron: "0 * * * *", publish: { queue: "filled", message: "{{fire_time}}" },
    });
    const page = await signedIn(acme, "/schedules/hourly");
    await tab(page, "Backfill");
    await page.getByLabel("From").fill("2026-01-05T10:30");
    await page.getByLabel("Before").fill("2026-01-05T13:30");
    await page.getByRole("button", { name: "Show what it would run" }).click();
    await page.getByText("3 runs are made").waitFor();
    const times = await page.getByRole("region", { name: "Fire times to run" }).getByRole("listitem").count();
    check(times === 3, `${times} fire times are shown`);
    check(!Number((await messages(acme, "GetQueue", { name: "filled" })).depth), "a plan runs something");
    await page.getByRole("button", { name: "Run 3" }).click();
    await page.getByText("Over: 3 runs.").waitFor();
    const { depth } = await messages(acme, "GetQueue", { name: "filled" });
    check(depth === "3", `${depth} messages were published`);
    await page.getByRole("cell", { name: "Succeeded" }).nth(2).waitFor();
    await page.context().close();
  },

  async channels() {
    const page = await signedIn(acme, "/channels");
    await page.getByLabel("Channel or pattern").fill("news.*");
    await page.getByRole("button", { name: "Listen" }).click();
    await page.getByText("Live", { exact: true }).waitFor();
    await page.getByLabel("To the channel").fill("news.eu");
    await page.getByLabel("Payload").fill(hostile);
    await page.getByRole("button", { name: "Publish", exact: true }).click();
    const line = page.getByRole("log").getByRole("button", { name: "news.eu" });
    await line.click();
    await page.getByRole("dialog").getByText("alert(2)").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
    // What comes while the network is away is there afterwards, once.
    await inject("network/away");
    await page.getByText("Connecting", { exact: true }).waitFor();
    await call(acme, "plinth.channel.v1.ChannelService", "Publish", { channel: "news.us", text: "meanwhile" });
    await inject("network/back");
    await page.getByText("meanwhile").waitFor();
    const lines = await page.getByRole("log").getByRole("button").count();
    check(lines === 2, `${lines} messages are shown`);
    await page.context().close();
  },

  // A large upload is paused, and cut, goes on where it was, and arrives whole.
  async "a large upload"() {
    const folder = mkdtempSync(`${tmpdir()}/console-`);
    const bytes = randomBytes(100_000_000);
    const sum = createHash("sha256").update(bytes).digest("hex");
    writeFileSync(`${folder}/large.bin`, bytes);
    const page = await signedIn(acme, "/files");
    const network = await page.context().newCDPSession(page);
    const slow = (uploadThroughput) =>
      network.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput });
    await network.send("Network.enable");
    await slow(bytes.length / 4);
    const requests = [];
    page.on("request", (request) => request.url().includes("/api/v1/uploads") && requests.push(request.method()));
    await page.getByLabel("Choose files…").setInputFiles(`${folder}/large.bin`);
    const sent = page.getByRole("progressbar", { name: "large.bin" });
    const past = (share) => sent.evaluate(
      (e, share) => new Promise((resolve) => {
        const timer = setInterval(() => e.value > share * e.max && (clearInterval(timer), resolve()), 20);
      }), share);
    await past(0.3);
    await page.getByRole("button", { name: "Pause", exact: true }).click();
    await page.getByText("Paused", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Resume", exact: true }).click();
    await past(0.6);
    await inject("network/away");
    await slow(-1);
    await inject("network/back");
    await page.getByText("Uploaded", { exact: true }).waitFor({ timeout: 60_000 });
    const count = (method) => requests.filter((one) => one === method).length;
    check(count("POST") === 1 && count("PATCH") >= 2 && count("HEAD") >= 2, `the requests were ${requests}`);
    await page.getByRole("button", { name: "large.bin" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(sum).waitFor();
    const [download] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("button", { name: "Download" }).click()]);
    const got = createHash("sha256").update(readFileSync(await download.path())).digest("hex");
    check(got === sum, `what was downloaded has the checksum ${got}, want ${sum}`);
    // Whoever has the address that is shared can download it, without a key.
    await dialog.getByRole("button", { name: "Share…" }).click();
    await dialog.getByRole("button", { name: "Make the address" }).click();
    const shared = await fetch(await dialog.getByRole("region", { name: "Address" }).textContent());
    const digest = createHash("sha256").update(Buffer.from(await shared.arrayBuffer())).digest("hex");
    check(digest === sum, `what was shared has the status ${shared.status} and the checksum ${digest}`);
    await page.context().close();
    rmSync(folder, { recursive: true });
  },

  // A file is uploaded, listed and downloaded, and is the same.
  async files() {
    const bytes = randomBytes(3 << 20);
    const sum = createHash("sha256").update(bytes).digest("hex");
    const page = await signedIn(acme, "/files");
    await page.getByLabel("Choose files…").setInputFiles([
      { name: "random.bin", mimeType: "application/octet-stream", buffer: bytes },
      { name: `${hostile.replaceAll("/", "")}.html`, mimeType: "text/html", buffer: Buffer.from(`<title>x</title>${hostile}`) },
      { name: "evil.svg", mimeType: "image/svg+xml", buffer: Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(3)"/>`) },
      {
        name: "dot.png", mimeType: "image/png",
        buffer: Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==", "base64"),
      },
    ]);
    for (let i = 0; i < 4; i++) await page.getByText("Uploaded", { exact: true }).nth(i).waitFor();
    await page.getByRole("button", { name: "random.bin" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(sum).waitFor();
    const [download] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("button", { name: "Download" }).click()]);
    const got = createHash("sha256").update(readFileSync(await download.path())).digest("hex");
    check(got === sum, `what was downloaded has the checksum ${got}, want ${sum}`);
    check(download.suggestedFilename() === "random.bin", `it is saved as ${download.suggestedFilename()}`);
    await dialog.getByRole("button", { name: "Close" }).click();
    for (const name of ["onerror", "evil.svg"]) {
      await page.getByRole("button", { name }).click();
      await dialog.getByRole("region", { name: "Payload" }).getByText(/alert\(/).waitFor();
      await dialog.getByRole("button", { name: "Close" }).click();
    }
    await page.getByRole("button", { name: "dot.png" }).click();
    const image = dialog.getByRole("img", { name: "dot.png" });
    await image.waitFor();
    check(await image.evaluate((i) => i.decode().then(() => i.naturalWidth === 1)), "the image is not shown");
    await dialog.getByRole("button", { name: "Close" }).click();
    await page.getByLabel("Select random.bin").check();
    await page.getByRole("button", { name: "Delete selected…" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
    await page.getByText("1 file was deleted.").waitFor();
    await page.context().close();
  },

  // A list shows a page of 100, and each page is as fast as the first.
  async "ten thousand dead letters"() {
    await messages(acme, "CreateQueue", { name: "ten-thousand" });
    const made = await inject("letters");
    check(made.ok, await made.text());
    const page = await signedIn(acme, "/queues/ten-thousand/dead");
    const row = (n) => page.getByRole("button", { name: `reason ${n}`, exact: true });
    await row(1).waitFor();
    const frames = await page.evaluate(
      () =>
        new Promise((resolve) => {
          const times = [];
          let last = performance.now();
          requestAnimationFrame(function scroll(now) {
            times.push(now - last);
            last = now;
            const rows = document.querySelectorAll("tbody tr");
            rows[times.length % rows.length].scrollIntoView({ block: "center" });
            if (times.length < 120) requestAnimationFrame(scroll);
            else resolve(times.sort((a, b) => a - b));
          });
        }),
    );
    const turns = [];
    for (let n = 101; n <= 501; n += 100) {
      const begun = Date.now();
      await page.getByRole("button", { name: "Next", exact: true }).click();
      await row(n).waitFor();
      turns.push(Date.now() - begun);
    }
    turns.sort((a, b) => a - b);
    const rounded = (n) => Math.round(n * 10) / 10;
    console.error(
      `10,000 dead letters: a frame takes ${rounded(frames[60])} ms (median) and ${rounded(frames[114])} ms (95 %) while a page scrolls, ` +
        `and the next page ${turns[2]} ms (median)`,
    );
    await page.context().close();
  },

  async "a megabyte on a line"() {
    await messages(acme, "CreateQueue", { name: "large", maxAttempts: 1 });
    await messages(acme, "Publish", { queue: "large", message: "<b>".repeat(350_000) });
    await nack(acme, "large", "too large");
    const page = await signedIn(acme, "/queues/large/dead");
    await page.getByRole("button", { name: "too large" }).click();
    await page.getByRole("button", { name: "Show all" }).click();
    const length = await page.getByRole("region", { name: "Payload" }).evaluate((e) => e.textContent.length);
    check(length === 1_050_000, `${length} letters are shown`);
    await page.context().close();
  },

  // That nothing needs attention is said once it is known, and not before.
  async "what is not known yet"() {
    const page = await signedIn(acme, "/settings");
    const calm = page.getByText("Nothing needs attention");
    let release;
    const held = new Promise((resolve) => (release = resolve));
    await page.route("**/GetQueue", async (route) => (await held, route.continue()));
    await page.goto(server);
    await page.getByText("Ready", { exact: true }).waitFor();
    await page.locator(".panel", { hasText: "Needs attention" }).locator(".waiting").waitFor();
    check((await calm.count()) === 0, "nothing needs attention, although nothing is known");
    release();
    const begun = Date.now();
    await page.getByText("1 dead letter", { exact: true }).waitFor();
    // The chart has a point every 5 s, and not for each queue.
    const points = await page.locator(".chart path").first().evaluate((e) => e.getAttribute("d").match(/[ML]/g).length);
    const most = 2 + (Date.now() - begun) / 5000;
    check(points <= most, `the chart has ${points} points, want at most ${most}`);
    await page.route("**/ListQueues", (route) => route.abort());
    await page.goto(server);
    await page.getByText("Not everything could be asked").waitFor();
    check((await calm.count()) === 0, "nothing needs attention, although the queues are not known");
    await page.context().close();
  },

  async "cache and locks"() {
    await call(acme, "plinth.cache.v1.CacheService", "Set", { key: "session/1", value: Buffer.from('{"a":1}').toString("base64") });
    for (const key of [acme, admin]) await call(key, "plinth.lock.v1.LockService", "Acquire", { name: "nightly", owner: hostile, ttl: "600s" });
    const page = await signedIn(acme, "/cache");
    await page.getByLabel("Key").fill("session/1");
    await page.getByRole("button", { name: "Find" }).click();
    await page.getByText('"a": 1').waitFor();
    await page.getByLabel("Key").fill("nothing");
    await page.getByRole("button", { name: "Find" }).click();
    await page.getByText("The key has no value").waitFor();
    await page.context().close();
    const boss = await signedIn(admin, "/locks");
    await boss.getByRole("button", { name: "Force release… nightly" }).click();
    await boss.getByLabel("Reason").fill("its worker is gone");
    await boss.getByRole("dialog").getByRole("button", { name: "Force release" }).click();
    await boss.getByText("Nobody has a lock").waitFor();
    await boss.getByRole("cell", { name: "its worker is gone" }).waitFor();
    await boss.context().close();
  },

  // A tenant is made, gets a key, which is shown once and works, and an administrator sees for whom she acts.
  async tenants() {
    const page = await signedIn(admin, "/tenants?new=1");
    await page.getByLabel("Name", { exact: true }).fill("made-here");
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("button", { name: "New key" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("All that a tenant can do").check();
    await dialog.getByRole("button", { name: "Create" }).click();
    const key = await dialog.getByRole("region", { name: "API key" }).textContent();
    await dialog.getByRole("button", { name: "I have kept it" }).click();
    await messages(key.trim(), "ListQueues", {});
    check(!(await page.content()).includes(key.trim()), "the key is still on the page");
    await page.getByRole("button", { name: "Act for it" }).click();
    check((await page.getByLabel("Acting for").inputValue()) === "made-here", "the page does not say for whom she acts");
    await page.goto(`${server}/queues`);
    await page.getByText("There are no queues yet").waitFor();
    await page.context().close();
  },

  async isolation() {
    const page = await signedIn(other, "/queues");
    await page.getByText("There are no queues yet").waitFor();
    await page.goto(`${server}/queues/orders/dead`);
    await page.getByRole("alert").waitFor();
    for (const path of ["/schedules", "/files", "/schedules/tick"]) {
      await page.goto(server + path);
      await page.getByText(/There are no|not found|no schedule/i).first().waitFor();
      check(!(await page.content()).includes("evil.svg"), "a file of another tenant is listed");
    }
    await page.goto(`${server}/cache?key=session/1`);
    await page.getByText("The key has no value").waitFor();
    await page.goto(`${server}/locks`);
    await page.getByText("Nobody has a lock").waitFor();
    check((await page.getByRole("link", { name: "Tenants" }).count()) === 0, "who is no administrator is led to the tenants");
    await page.context().close();
  },

  async "a key that is revoked while it is used"() {
    const { key, apiKey } = await call(admin, "plinth.tenant.v1.TenantService", "CreateApiKey", { tenant: "acme", scopes: ["queues.read"] });
    const page = await signedIn(key, "/queues/orders");
    await page.getByText("Policy", { exact: true }).waitFor();
    await call(admin, "plinth.tenant.v1.TenantService", "RevokeApiKey", { id: apiKey.id });
    await page.getByText("The key is not taken any more").waitFor();
    await page.context().close();
  },

  // What is known stays on the page while the server is away, and the page recovers by itself.
  async "the server away and back"() {
    await messages(acme, "CreateQueue", { name: "seen" });
    const page = await signedIn(acme, "/queues/seen");
    await page.getByText("Policy", { exact: true }).waitFor();
    await page.context().setOffline(true);
    await page.getByRole("alert").getByText("The server does not answer.").waitFor();
    await page.getByText("Policy", { exact: true }).waitFor();
    await page.context().setOffline(false);
    await page.getByRole("alert").waitFor({ state: "detached" });
    await messages(acme, "DeleteQueue", { name: "seen" });
    await page.context().close();
  },

  // While PostgreSQL is away, the overview says so, and so does the page that one goes to. Both recover by themselves.
  async "PostgreSQL away and back"() {
    const page = await signedIn(acme, "/");
    await page.getByText("Ready", { exact: true }).waitFor();
    await inject("postgres/away");
    try {
      await page.getByText("Not ready", { exact: true }).waitFor();
      await page.getByText("postgres away").first().waitFor();
      await page.getByRole("link", { name: "Schedules" }).first().click();
      await page.getByRole("alert").first().waitFor();
    } finally {
      await inject("postgres/back");
    }
    await page.getByRole("alert").first().waitFor({ state: "detached", timeout: 40_000 });
    await page.getByRole("cell", { name: "tick" }).first().waitFor();
    await page.getByRole("link", { name: "Overview", exact: true }).click();
    await page.getByText("Ready", { exact: true }).waitFor({ timeout: 40_000 });
    await page.context().close();
  },

  async keyboard() {
    const page = await signedIn(acme, "/");
    const faults = [];
    await page.evaluate(axe);
    await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
    await page.keyboard.press("g");
    await page.keyboard.press("q");
    await page.getByRole("link", { name: "orders" }).waitFor();
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    await page.keyboard.press("j");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "orders", level: 1 }).waitFor();
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: "Go to…" }).fill("tick");
    await page.getByRole("option", { name: /tick/ }).waitFor();
    await look(page, "the palette", faults);
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "tick", level: 1 }).waitFor();
    await page.keyboard.press("?");
    await page.getByRole("dialog").getByText("Select the row").waitFor();
    await look(page, "the keys", faults);
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    check(faults.length === 0, faults.join("\n"));
    await page.context().close();
  },

  // Every page, wide and narrow, light and dark, in both languages: nothing for axe to find, and nothing wider than the screen. The wide
  // ones are loaded each, and so each has an address; the narrow ones are come to from another.
  async pages() {
    const { files } = await (await fetch(`${server}/api/v1/files`, { headers: { Authorization: `Bearer ${acme}` } })).json();
    const { deadLetters: [letter] } = await messages(acme, "ListDeadLetters", { queue: "large" });
    const { runs: [run] } = await call(acme, "plinth.schedule.v1.ScheduleService", "ListRuns", { schedule: "tick", pageSize: 1 });
    const faults = [];
    const paths = [
      "/", "/queues", "/queues?new=1", "/queues/orders", "/queues/orders/publish", "/queues/way/messages", "/queues/way/tail", "/queues/way/waiting", "/queues/large/dead",
      `/queues/large/dead?letter=${letter.id}`, "/queues/orders/operations", "/schedules", "/schedules?new=1", "/schedules/tick",
      `/schedules/tick?run=${run.id}`, "/schedules/tick/plan", "/schedules/hourly/backfill", "/schedules/tick/changes",
      "/files", `/files/${files[0].id}`, "/channels", "/channels?channel=news.eu", "/cache", "/cache?key=session/1", "/locks", "/tenants", "/tenants/acme", "/settings",
      "/queues/nowhere",
    ];
    for (const [width, colorScheme, locale] of [[1280, "light", "en-US"], [360, "dark", "zh-CN"]]) {
      const page = await signedIn(admin, "/settings", { viewport: { width, height: 900 }, colorScheme, locale });
      await remember(page, { "plinth.tenant": "acme" });
      let names = new Set();
      page.on("request", (request) => names.add(/\/assets\/[^/]+\/(.+)$/.exec(request.url())?.[1]));
      for (const path of paths) {
        names = new Set();
        if (width === 1280 || path === "/") {
          await page.goto(server + path);
          await page.evaluate(axe);
        } else {
          await page.evaluate((path) => (history.pushState(null, "", path), dispatchEvent(new PopStateEvent("popstate"))), path);
        }
        await page.locator("h1").first().waitFor();
        await page.waitForFunction(() => !document.querySelector(".waiting"));
        if (width === 1280) loaded.set(path, names);
        const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        if (over > 0) faults.push(`${path} is ${over} px wider than ${width}`);
        await look(page, `${path} at ${width}`, faults);
        if (pictures) {
          const name = path.replace(/[0-9a-f-]{36}/, "one").match(/[a-z]+/gi)?.join("-") ?? "overview";
          await page.screenshot({ path: `${pictures}/${name}-${width}-${colorScheme}.png` });
        }
      }
      await page.context().close();
    }
    const start = await newContext();
    const page = await start.newPage();
    await page.goto(server);
    await page.getByLabel("API key").waitFor();
    await page.evaluate(axe);
    await look(page, "sign-in", faults);
    await start.close();
    check(faults.length === 0, faults.join("\n"));
  },

  // The first page loads at most 150 kB, and every other one at most 35 kB more, compressed with brotli.
  async budget() {
    const faults = [];
    const parts = readdirSync("dist").filter((name) => /\.(js|css|svg)$/.test(name) && !name.startsWith("docs."));
    const lengths = new Map(parts.map((name) => [name, brotliCompressSync(readFileSync(`dist/${name}`)).length]));
    const first = loaded.get("/");
    const sizes = {};
    for (const [path, names] of loaded) {
      const most = path === "/" ? 150_000 : 35_000;
      sizes[path] = [...names].filter((name) => name && (path === "/" || !first.has(name))).reduce((sum, name) => sum + lengths.get(name), 0);
      if (sizes[path] > most) faults.push(`${path} loads ${sizes[path]} bytes more`);
    }
    for (const [name, more] of lengths) { // Some parts are loaded when something is done on a page.
      if (name.endsWith(".js") && !first.has(name) && more > 35_000) faults.push(`${name} has ${more} bytes`);
    }
    console.error(`bytes loaded: ${JSON.stringify(sizes)}`);
    check(sizes["/"] > 50_000 && sizes["/queues"] > 10_000, "too little was loaded: was everything seen?");
    check(faults.length === 0, faults.join("\n"));
  },

  // The page of the document lists what there is, leaves axe nothing to find, and makes a call.
  async docs() {
    const context = await newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(120_000); // The document is large, and a busy browser takes its time.
    await page.goto(`${server}/docs`);
    await page.getByLabel("API key").fill(acme);
    await page.locator(".opblock").first().waitFor();
    const faults = [];
    await page.evaluate(axe);
    await look(page, "/docs", faults);
    check(faults.length === 0, faults.join("\n"));
    const get = page.locator(".opblock-get", { has: page.locator('[data-path="/api/v1/queues/{name}"]') });
    await get.locator(".opblock-summary-path").click();
    await get.getByPlaceholder("name").fill("orders");
    await get.getByRole("button", { name: "Execute" }).click();
    await get.locator(".live-responses-table").getByText('"orders"').first().waitFor();
    await context.close();
  },
};

// look adds what axe finds on a page that has it.
async function look(page, where, faults) {
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, nodes } of violations) faults.push(`${where}: ${id}: ${nodes[0].html} ${nodes[0].failureSummary}`);
}

async function tab(page, name) {
  await page.locator(".tabs").getByRole("link", { name }).click();
}

// fact waits for a number at a glance.
async function fact(page, name, value) {
  await page.locator(".fact", { hasText: name }).locator("dd", { hasText: new RegExp(`^${value}$`) }).first().waitFor();
}

const outcome = {};

async function take(name) {
  const before = crimes.length;
  const begun = Date.now();
  try {
    await steps[name]();
    outcome[name] = "";
  } catch (error) {
    outcome[name] = String(error.stack ?? error);
    for (const context of browser.contexts()) {
      for (const page of context.pages()) {
        outcome[name] += `\n${page.url()}: ${await page.locator("body").innerText().catch(() => "")}`.slice(0, 1500);
      }
      await context.close();
    }
  }
  console.error(`${name}: ${Date.now() - begun} ms`);
  if (crimes.length > before) outcome[name] += `\n${crimes.slice(before).join("\n")}`;
}

try {
  const wanted = Object.keys(steps).filter((name) => process.env.CI === "true" || usual.includes(name));
  const aside = Promise.all(wanted.filter((name) => patient.includes(name)).map(take));
  for (const name of wanted.filter((name) => !patient.includes(name))) {
    if (name === "channels") await aside; // It is the first that has the network go away.
    await take(name);
  }
  await aside;
} finally {
  await browser.close();
}
console.log(JSON.stringify(outcome));
