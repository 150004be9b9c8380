// What people do who do not do what was thought of.
export default ({ server, acme, beta, many, admin, hostile, messages, nack, call, inject, check }) => ({
  // A page asks again after 5 s, and what is seldom asked for is asked for again as soon once it failed.
  async "asking again"(visit) {
    const { t } = visit;
    const page = await visit.signedIn(acme, "/settings");
    await page.clock.install();
    const asked = { ListDeadLetters: 0, ListQueues: 0 };
    page.on("request", (request) => {
      const name = request.url().split("/").at(-1);
      if (name in asked) asked[name]++;
    });
    // after reports how often a method is asked for while a time passes.
    const after = async (method, ms) => {
      const before = asked[method];
      await page.clock.runFor(ms);
      await page.waitForTimeout(500);
      return asked[method] - before;
    };
    await page.goto(`${server}/queues/large/dead`);
    await page.getByRole("button", { name: "too large" }).waitFor();
    const letters = await after("ListDeadLetters", 5_200);
    check(letters === 1, `in 5 s the dead letters are asked for ${letters} times again`);
    await page.goto(`${server}/queues`);
    await page.getByRole("link", { name: "large" }).waitFor();
    const queues = await after("ListQueues", 15_000);
    check(queues === 0, `in 15 s the list of queues is asked for ${queues} times again`);
    await page.route("**/ListQueues", (route) => route.abort());
    await after("ListQueues", 10_000); // It is asked for, again twice at once, and fails.
    await after("ListQueues", 2_000);
    await page.getByRole("alert").waitFor();
    await page.unroute("**/ListQueues");
    await after("ListQueues", 5_200);
    await page.getByRole("alert").waitFor({ state: "detached" });
  },

  // The browser's clock is an hour ahead. Nothing is late for that, and what was published now is not an hour old.
  async "a clock that is wrong"(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "of-now" });
    const page = await visit.signedIn(acme, "/settings");
    await page.clock.install({ time: Date.now() + 3_600_000 });
    await page.goto(`${server}/queues/of-now`);
    const created = page.locator(".fact", { hasText: t("col.created") }).locator("time");
    await created.waitFor();
    await page.clock.runFor(1_100);
    const ago = await created.textContent();
    check(/sec|now/.test(ago), `a queue that was made now is said to be from ${ago}`);
    await page.goto(server);
    await page.locator(".panel", { hasText: t("overview.attention") }).getByRole("listitem").first().waitFor();
    check((await page.getByText(t("matter.late"), { exact: true }).count()) === 0, "a schedule is said to be late");
    await messages(acme, "DeleteQueue", { name: "of-now" });
  },

  // Whatever an address names, a page tells that it is not there, or shows what is.
  async "strange addresses"(visit) {
    const { t } = visit;
    const page = await visit.signedIn(admin, "/settings", { "plinth.tenant": "acme" });
    const names = ["a%2Fb", "%F0%9F%98%80", "%E2%80%AEgpj", "x%3Fy%23z", "..%2F..", "%3Cscript%3E", "a%20b", "%25", "%00", "%E0%A4%A", "%"];
    for (const [i, name] of names.entries()) {
      const path = `/${["queues", "files", "schedules", "tenants"][i % 4]}/${name}`;
      await page.evaluate((path) => (history.pushState(null, "", path), dispatchEvent(new PopStateEvent("popstate"))), path);
      await page.locator("[role=alert]:visible, main .empty:visible").first().waitFor();
      check((await page.getByText(t("fault"), { exact: true }).count()) === 0, `${path} breaks the page`);
    }
    for (const path of ["/queues/a%2Fb", "/queues/%F0%9F%98%80", "/tenants/%E2%80%AEgpj"]) { // The server has these for the browser, too.
      await page.goto(server + path);
      await page.getByRole("alert").first().waitFor();
    }
    const key = `a/b?c#d&e=%2F😀\u202Egpj${hostile}`;
    await call(acme, "plinth.cache.v1.CacheService", "Set", { key, value: Buffer.from("found").toString("base64") });
    await page.goto(`${server}/cache`);
    await page.getByLabel(t("cache.key"), { exact: true }).fill(key);
    await page.getByRole("button", { name: t("action.find") }).click();
    await page.getByRole("region", { name: t("payload") }).getByText("found").waitFor();
    await page.goto(page.url());
    await page.getByRole("region", { name: t("payload") }).getByText("found").waitFor();
  },

  // What an address asks for that cannot be is left out, and what does not work is said as the server says it.
  async "addresses that ask for what cannot be"(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "asked" });
    await messages(acme, "CreateQueue", { name: "asked-once", maxAttempts: 1 });
    await messages(acme, "Publish", { queue: "asked-once", message: "one" });
    await nack(acme, "asked-once", "too bad");
    const long = JSON.stringify({ text: "x", delay: `${"9".repeat(400)} d` });
    const page = await visit.signedIn(acme, "/queues/a-network", { "plinth.publish..asked": long });
    await page.getByRole("alert").getByText(/does not exist/).waitFor();
    await page.goto(`${server}/queues/asked/publish`);
    await page.getByText(t("hint.span"), { exact: true }).waitFor();
    await page.goto(`${server}/queues?page=999`);
    await page.getByRole("link", { name: "asked", exact: true }).waitFor();
    await page.goto(`${server}/queues/asked/nothing`);
    await page.getByText(t("queue.policy"), { exact: true }).waitFor();
    await page.goto(`${server}/files?state=none`);
    await page.getByLabel(t("col.state")).waitFor();
    await page.locator(".panel", { hasText: t("nav.files") }).last().locator("table, .empty").first().waitFor();
    await page.goto(`${server}/queues/asked-once/dead?from=once`);
    await page.getByRole("button", { name: t("dead.purge.all") }).click();
    const dialog = page.getByRole("dialog");
    await dialog.waitFor();
    await dialog.getByText(t("bulk.purge.count", { n: 1 }), { exact: false }).waitFor();
    check((await dialog.getByText(t("dead.words.from", { time: "once" })).count()) === 0, "all are removed, and it names a filter");
    for (const name of ["asked", "asked-once"]) await messages(acme, "DeleteQueue", { name });
  },

  // A browser that blocks all cookies keeps nothing for a page, and one whose storage is full nothing more.
  async "a browser that keeps nothing"(visit) {
    const { t } = visit;
    const blocked = () => {
      const get = () => {
        throw new DOMException("blocked", "SecurityError");
      };
      for (const name of ["sessionStorage", "localStorage"]) Object.defineProperty(window, name, { get });
    };
    const full = () => {
      Storage.prototype.setItem = () => {
        throw new DOMException("full", "QuotaExceededError");
      };
    };
    for (const way of [blocked, full]) {
      const context = await visit.newContext();
      await context.addInitScript(way);
      const page = await context.newPage();
      await page.goto(`${server}/queues`);
      await page.getByLabel(t("signIn.key")).fill(acme);
      await page.getByRole("button", { name: t("signIn.go"), exact: true }).click();
      await page.getByRole("heading", { name: t("nav.queues"), level: 1 }).waitFor();
    }
  },

  // Going back undoes what was set, step by step, and going forward does it again.
  async "back and forward"(visit) {
    const { t } = visit;
    const page = await visit.signedIn(acme, "/queues/large");
    await visit.tab(page, "queue.tab.dead");
    const reason = page.getByLabel(t("dead.filter.reason"));
    await reason.pressSequentially("too large");
    await page.getByRole("button", { name: "too large" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.waitFor();
    await page.goBack();
    await dialog.waitFor({ state: "detached" });
    check((await reason.inputValue()) === "too large", `the filter is ${await reason.inputValue()}`);
    await page.goBack();
    check((await reason.inputValue()) === "", "the filter is not undone");
    await page.goBack();
    await page.getByText(t("queue.policy"), { exact: true }).waitFor();
    for (let i = 0; i < 3; i++) await page.goForward();
    await dialog.waitFor();
    await page.goto(`${server}/cache`);
    for (const key of ["session/1", "nothing"]) {
      await page.getByLabel(t("cache.key"), { exact: true }).fill(key);
      await page.getByRole("button", { name: t("action.find") }).click();
      await page.waitForURL((url) => url.searchParams.get("key") === key);
    }
    await page.goBack();
    check((await page.getByLabel(t("cache.key"), { exact: true }).inputValue()) === "", "the key is not undone");
  },

  // A tab is for one tenant, whatever the next one is for.
  async "tabs of two tenants"(visit) {
    const { t } = visit;
    const context = await visit.newContext();
    const [first, second] = [await context.newPage(), await context.newPage()];
    const both = [[first, acme, 7], [second, beta, 3]];
    for (const [page, key, n] of both) {
      await messages(key, "CreateQueue", { name: "shared" });
      await messages(key, "PublishBatch", { messages: Array.from({ length: n }, () => ({ queue: "shared", message: "one" })) });
      await page.goto(`${server}/queues/shared`);
      await page.getByLabel(t("signIn.key")).fill(key);
      await page.getByRole("button", { name: t("signIn.go"), exact: true }).click();
    }
    for (const [page, , n] of both) await visit.fact(page, "queue.depth", String(n));
    await messages(acme, "Publish", { queue: "shared", message: "eight" });
    await visit.fact(first, "queue.depth", "8");
    await first.waitForTimeout(1_500); // The second tab has another reading by then.
    await visit.fact(second, "queue.depth", "3");
    for (const [, key] of both) await messages(key, "DeleteQueue", { name: "shared" });
  },

  // With ten thousand queues and a thousand schedules, each is found, and the pages stay quick.
  async "ten thousand queues"(visit) {
    const { t } = visit;
    const made = await inject("queues");
    check(made.ok, await made.text());
    const page = await visit.signedIn(many, "/queues");
    await page.getByText(t("page.of", { n: 1, all: 200 })).waitFor();
    await page.getByLabel(t("filter.name")).fill("q-09999");
    await page.getByRole("link", { name: "q-09999" }).waitFor();
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: t("palette.open") }).fill("q-09998");
    await page.getByRole("option", { name: /q-09998/ }).waitFor();
    await page.getByRole("combobox", { name: t("palette.open") }).fill("s-0999");
    await page.getByRole("option", { name: /s-0999/ }).waitFor();
    await page.keyboard.press("Escape");
    await page.goto(`${server}/schedules?q=s-0999`);
    await page.getByRole("link", { name: "s-0999" }).waitFor();
  },
});
