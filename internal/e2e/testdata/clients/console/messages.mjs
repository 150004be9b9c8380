// What becomes of messages.
import { execFile } from "node:child_process";
import { promisify } from "node:util";

export default ({ acme, faults, hostile, messages, nack, inject, check }) => ({
  // A message is published, fails, is found among the dead letters, sent back, and is in the queue again.
  async messages(visit) {
    const { t, key } = visit;
    const page = await visit.signedIn(key, "/queues?new=1");
    await page.getByLabel(t("col.name"), { exact: true }).fill("orders");
    await page.getByLabel(t("queue.maxAttempts")).fill("1");
    await page.getByRole("button", { name: t("action.create") }).click();
    await visit.tab(page, "queue.tab.publish");
    await page.getByLabel(t("publish.payload"), { exact: true }).fill(`{"order": 17, "note": ${JSON.stringify(hostile)}}`);
    await page.getByLabel(t("attributes"), { exact: true }).fill("source=console");
    await page.getByRole("button", { name: t("publish"), exact: true }).click();
    await page.getByText(t("publish.done")).waitFor();
    await visit.tab(page, "queue.tab.overview");
    await visit.fact(page, "queue.depth", "1");
    await nack(key, "orders", hostile);
    await visit.tab(page, "queue.tab.dead");
    await page.getByRole("button", { name: hostile }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText('"order": 17').waitFor();
    await dialog.getByLabel(t("payload.search")).fill("ORDER");
    await dialog.getByText(t("payload.found", { n: 1 }), { exact: true }).waitFor();
    check((await dialog.getByText("alert(2)").count()) > 0, "the payload is not shown as text");
    await dialog.getByRole("button", { name: t("action.close") }).click();
    await page.getByLabel(t("dead.filter.reason")).fill("nothing like that");
    await page.getByText(t("filter.none")).waitFor();
    check(page.url().includes("reason=nothing"), `the filter is not in ${page.url()}`);
    await page.getByRole("button", { name: t("filter.clear") }).click();
    await page.getByRole("button", { name: t("dead.redrive.all") }).click();
    await page.getByText(t("bulk.redrive.count", { n: 1 })).waitFor();
    await dialog.getByRole("button", { name: t("bulk.redrive.go", { n: 1 }) }).click();
    await page.getByText(t("bulk.done", { n: 1 })).waitFor();
    await dialog.getByRole("button", { name: t("action.close") }).last().click();
    await page.getByText(t("dead.none"), { exact: true }).waitFor();
    await visit.tab(page, "queue.tab.overview");
    await visit.fact(page, "queue.depth", "1");
    const queue = await messages(key, "GetQueue", { name: "orders" });
    check(queue.depth === "1" && !Number(queue.deadLetters), `the server says ${JSON.stringify(queue)}`);
  },

  // Messages are seen as they come, also while one reads on further up, and none is taken.
  async "live tail"(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "tailed" });
    const page = await visit.signedIn(acme, "/queues/tailed/tail");
    await page.getByText(t("tail.none")).waitFor();
    const log = page.getByRole("log");
    const publish = (name, n) => messages(acme, "PublishBatch", { messages: Array.from({ length: n }, (_, i) => ({ queue: "tailed", message: `${name} ${i}.` })) });
    await publish("early", 250); // More than a page of the list.
    await log.getByText("early 249.").waitFor();
    await log.evaluate((e) => e.scrollTo(0, 0));
    await page.getByText(t("tail.paused"), { exact: true }).waitFor();
    await publish("late", 1);
    await page.waitForTimeout(1500);
    check((await log.getByText("late 0.").count()) === 0, "a message moves what is being read");
    await page.getByRole("button", { name: t("tail.go") }).click();
    await log.getByText("late 0.").click();
    await page.getByRole("dialog").getByText("late 0.").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: t("action.close") }).click();
    check((await log.getByRole("button").count()) === 251, `${await log.getByRole("button").count()} messages are shown`);
    const { depth } = await messages(acme, "GetQueue", { name: "tailed" });
    check(depth === "251", `${depth} messages are left`);
    await messages(acme, "DeleteQueue", { name: "tailed" });
  },

  // A message is seen coming, fails, is found, mended, sent back and handled.
  async "from a failure to its end"(visit) {
    const { t, key } = visit;
    await messages(key, "CreateQueue", { name: "way", maxAttempts: 1 });
    const page = await visit.signedIn(key, "/queues/way/publish");
    await page.getByLabel(t("publish.payload"), { exact: true }).fill('{"amount": null}');
    await page.getByRole("button", { name: t("publish"), exact: true }).click();
    await visit.tab(page, "queue.tab.tail");
    await page.getByRole("log").getByText('{"amount": null}').waitFor();
    await visit.tab(page, "queue.tab.messages");
    await page.getByRole("cell", { name: '{"amount": null}' }).waitFor();
    await nack(key, "way", "there is no amount");
    await visit.tab(page, "queue.tab.dead");
    await page.getByRole("button", { name: "there is no amount" }).click();
    const letter = page.getByRole("dialog");
    await letter.getByRole("button", { name: t("dead.edit") }).click();
    await letter.getByLabel(t("publish.payload"), { exact: true }).first().fill('{"amount": 3}');
    await letter.getByText('- {"amount": null}').waitFor();
    await letter.getByText('+ {"amount": 3}').waitFor();
    await letter.getByLabel(t("dead.edit.remove")).check();
    await letter.getByRole("button", { name: t("dead.edit.go") }).click();
    await page.getByText(t("dead.none"), { exact: true }).waitFor();
    const { messages: [pulled] } = await messages(key, "Pull", { queue: "way", wait: "5s", maxMessages: 1 });
    check(Buffer.from(pulled.payload, "base64").toString() === '{"amount": 3}', `${pulled.payload} was published`);
    await visit.tab(page, "queue.tab.messages");
    await page.getByLabel(t("messages.view")).selectOption("pulled");
    await page.getByRole("cell", { name: '{"amount": 3}' }).waitFor();
    await messages(key, "Ack", { queue: "way", receipts: [pulled.receipt] });
    await page.getByText(t("messages.none")).waitFor();
    await visit.tab(page, "queue.tab.overview");
    await visit.fact(page, "queue.depth", "0");
  },

  // What is redriven by a filter is the set that was shown, whatever has failed meanwhile.
  async "a filtered redrive"(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "filtered", maxAttempts: 1 });
    const reasons = async () => (await messages(acme, "ListDeadLetters", { queue: "filtered" })).deadLetters?.map(({ reason }) => reason) ?? [];
    const fail = async (reason) => {
      await messages(acme, "Publish", { queue: "filtered", message: reason });
      const { messages: [pulled] } = await messages(acme, "Pull", { queue: "filtered", wait: "10s", maxMessages: 1 });
      await messages(acme, "Nack", { queue: "filtered", receipts: [pulled.receipt], reason });
      for (let i = 0; i < 100 && !(await reasons()).includes(reason); i++) await page.waitForTimeout(100);
    };
    const page = await visit.signedIn(acme, "/queues/filtered/dead");
    for (const reason of ["Timeout 1", "refused", "timeout 2"]) await fail(reason);
    const row = (reason) => page.locator("tbody").getByRole("button", { name: reason, exact: true });
    await row("refused").waitFor();
    await page.getByLabel(t("dead.filter.reason")).fill("timeout");
    await row("refused").waitFor({ state: "detached" });
    for (const reason of ["Timeout 1", "timeout 2"]) await row(reason).waitFor();
    await page.getByRole("button", { name: t("dead.redrive.matching") }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(t("bulk.redrive.count", { n: 2 })).waitFor();
    await dialog.getByText(t("bulk.which", { words: t("dead.words.reason", { reason: "timeout" }) })).waitFor();
    check((await reasons()).length === 3, "a dry run redrives something");
    await fail("timeout 3");
    await dialog.getByRole("button", { name: t("bulk.redrive.go", { n: 2 }) }).click();
    await dialog.getByText(t("bulk.done", { n: 2 }), { exact: true }).waitFor();
    await dialog.getByRole("button", { name: t("action.close") }).last().click();
    await row("Timeout 1").waitFor({ state: "detached" });
    await row("timeout 3").waitFor();
    const left = (await reasons()).sort().join();
    check(left === "refused,timeout 3", `the dead letters that are left are ${left}`);
    const { messages: pulled } = await messages(acme, "Pull", { queue: "filtered", wait: "10s", maxMessages: 10 });
    const back = pulled.map(({ payload }) => Buffer.from(payload, "base64").toString()).sort().join();
    check(back === "Timeout 1,timeout 2", `what is back in the queue is ${back}`);
    await messages(acme, "DeleteQueue", { name: "filtered" });
  },

  // The page of a queue tells how its push does.
  async "a push whose endpoint fails"(visit) {
    const { t } = visit;
    const push = { url: `${faults}/hook` };
    await messages(acme, "CreateQueue", { name: "pushed", push, minBackoff: "0.01s", maxBackoff: "0.01s", maxAttempts: 1000 });
    await messages(acme, "Publish", { queue: "pushed", message: "one" });
    const page = await visit.signedIn(acme, "/queues/pushed");
    await page.getByText(push.url).waitFor();
    await page.getByText(t("push.opened")).waitFor();
    await page.getByText("500").first().waitFor();
    await page.getByText(/^\d of at most \d+$/).waitFor();
    await messages(acme, "DeleteQueue", { name: "pushed" });
  },

  async "waiting messages"(visit) {
    const { t } = visit;
    for (const message of ["one", "two", "three"]) await messages(acme, "Publish", { queue: "way", message, delay: "3600s" });
    const page = await visit.signedIn(acme, "/queues/way/waiting");
    await page.getByRole("cell", { name: "three" }).waitFor();
    const row = (name) => page.getByRole("row", { name });
    await row("one").getByRole("checkbox").check();
    await row("two").getByRole("checkbox").check();
    await page.getByRole("button", { name: t("waiting.cancel.chosen") }).click();
    await page.getByRole("dialog").getByRole("button", { name: t("waiting.cancel.go", { n: 2 }) }).click();
    await page.getByText(t("waiting.cancelled.n", { n: 2 })).waitFor();
    await row("one").waitFor({ state: "detached" });
    await row("three").waitFor();
  },

  // However many tabs watch a queue, the browser has one stream. When its tab is closed, another tab has it.
  async "one stream of all tabs"(visit) {
    const first = await visit.signedIn(acme, "/queues/way");
    const context = first.context();
    const streams = [];
    context.on("request", (request) => request.url().endsWith("/WatchQueue") && streams.push(request.frame().page()));
    await first.reload();
    for (let i = 0; i < 100 && streams.length < 1; i++) await first.waitForTimeout(100);
    const second = await context.newPage();
    await second.goto(first.url());
    await messages(acme, "Publish", { queue: "way", message: "four" });
    for (const page of [first, second]) await visit.fact(page, "queue.depth", "1");
    check(streams.length === 1 && streams[0] === first, `${streams.length} streams were opened`);
    await first.close();
    for (let i = 0; i < 50 && streams.length < 2; i++) await second.waitForTimeout(100);
    check(streams.length === 2 && streams[1] === second, `after the first tab, ${streams.length} streams were opened`);
  },

  async "waiting, pause and purge"(visit) {
    const { t } = visit;
    const { id } = await messages(acme, "Publish", { queue: "orders", message: "later", delay: "3600s" });
    const page = await visit.signedIn(acme, `/queues/orders/waiting?id=${id}`);
    const dialog = page.getByRole("dialog");
    await page.getByRole("button", { name: t("waiting.cancel") }).click();
    await dialog.getByRole("button", { name: t("waiting.cancel.go", { n: 1 }) }).click();
    await page.getByText(t("waiting.cancelled")).waitFor();
    await page.getByRole("button", { name: t("queue.pause") }).click();
    await page.getByRole("button", { name: t("queue.resume") }).waitFor();
    check((await messages(acme, "GetQueue", { name: "orders" })).paused, "the queue is not paused");
    await page.getByRole("button", { name: t("queue.resume") }).click();
    await page.getByRole("button", { name: t("queue.purge") }).click();
    const purge = dialog.getByRole("button", { name: t("queue.purge") });
    check(await purge.isDisabled(), "a queue is purged without its name");
    await dialog.getByRole("textbox").fill("orders");
    await purge.click();
    await page.getByText(t("queue.purged", { n: 1 })).waitFor();
  },

  // A command that was copied does the same, whatever is in it, and holds no key.
  async "copy as curl"(visit) {
    const { t } = visit;
    const page = await visit.signedIn(acme, "/queues/orders/publish");
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    const text = `it's "$HOME" \`id\` ${hostile}`;
    await page.getByLabel(t("publish.payload"), { exact: true }).fill(text);
    await page.getByLabel(t("publish.delay")).fill("1 h");
    await page.getByRole("button", { name: "curl", exact: true }).last().click(); // The first is of the queue.
    await page.getByText(t("copied")).waitFor();
    const command = await page.evaluate(() => navigator.clipboard.readText());
    check(!command.includes("plinth_"), `the key is in ${command}`);
    const { stdout } = await promisify(execFile)("sh", ["-c", `${command} --silent`], { env: { ...process.env, PLINTH_API_KEY: acme } });
    const { id } = JSON.parse(stdout);
    const { payload } = await messages(acme, "GetMessage", { id });
    check(Buffer.from(payload, "base64").toString() === text, `the command publishes ${payload}`);
    await messages(acme, "CancelMessage", { id });
  },

  // A list shows a page of 100, and each page is as fast as the first.
  async "ten thousand dead letters"(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "ten-thousand" });
    const made = await inject("letters");
    check(made.ok, await made.text());
    const page = await visit.signedIn(acme, "/queues/ten-thousand/dead");
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
      await page.getByRole("button", { name: t("page.next"), exact: true }).click();
      await row(n).waitFor();
      turns.push(Date.now() - begun);
    }
    turns.sort((a, b) => a - b);
    const rounded = (n) => Math.round(n * 10) / 10;
    console.error(
      `10,000 dead letters: a frame takes ${rounded(frames[60])} ms (median) and ${rounded(frames[114])} ms (95 %) while a page scrolls, ` +
        `and the next page ${turns[2]} ms (median)`,
    );
  },

  async "a megabyte on a line"(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "large", maxAttempts: 1 });
    await messages(acme, "Publish", { queue: "large", message: "<b>".repeat(350_000) });
    await nack(acme, "large", "too large");
    const page = await visit.signedIn(acme, "/queues/large/dead");
    await page.getByRole("button", { name: "too large" }).click();
    await page.getByRole("button", { name: t("payload.whole") }).click();
    const length = await page.getByRole("region", { name: t("payload") }).evaluate((e) => e.textContent.length);
    check(length === 1_050_000, `${length} letters are shown`);
  },
});
