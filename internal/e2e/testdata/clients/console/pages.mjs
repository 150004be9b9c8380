// How pages look, in every way of looking at them.
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { brotliCompressSync } from "node:zlib";

// The files of the build that a page loads, by its path.
const loaded = new Map();

export default ({ server, acme, admin, other, narrow, pictures, axe, Visit, call, messages, check, look }) => {
  // All that there is, at addresses of their own.
  async function addresses() {
    const { files } = await (await fetch(`${server}/api/v1/files`, { headers: { Authorization: `Bearer ${acme}` } })).json();
    const { deadLetters: [letter] } = await messages(acme, "ListDeadLetters", { queue: "large" });
    const { runs: [run] } = await call(acme, "plinth.schedule.v1.ScheduleService", "ListRuns", { schedule: "tick", pageSize: 1 });
    return [
      "/", "/queues", "/queues?new=1", "/queues/orders", "/queues/orders/publish", "/queues/way/messages", "/queues/way/tail", "/queues/way/waiting", "/queues/large/dead",
      `/queues/large/dead?letter=${letter.id}`, "/queues/orders/operations", "/schedules", "/schedules?new=1", "/schedules/tick",
      `/schedules/tick?run=${run.id}`, "/schedules/tick/plan", "/schedules/hourly/backfill", "/schedules/tick/changes",
      "/files", `/files/${files[0].id}`, "/channels", "/channels?channel=news.eu", "/cache", "/cache?key=session/1", "/locks", "/tenants", "/tenants/acme", "/settings",
      "/queues/nowhere",
    ];
  }

  // go comes to an address from another one.
  async function go(page, path) {
    await page.evaluate((path) => (history.pushState(null, "", path), dispatchEvent(new PopStateEvent("popstate"))), path);
    await quiet(page);
  }

  async function quiet(page) {
    await page.locator("h1").first().waitFor();
    await page.waitForFunction(() => !document.querySelector(".waiting"));
  }

  // inAllColours looks at a page that is there: light and dark, in both languages, each time after one change, for what that can change.
  async function inAllColours(page, where, faults, picture) {
    for (const turn of ["", "colour", "language", "colour"]) {
      if (turn === "language") {
        const before = await page.evaluate(() => document.documentElement.lang);
        await page.locator("button[lang]").first().evaluate((button) => button.click()); // A dialog may be over it.
        await page.waitForFunction((before) => document.documentElement.lang !== before, before);
      }
      const dark = await page.evaluate(() => matchMedia("(prefers-color-scheme: dark)").matches);
      if (turn === "colour") await page.emulateMedia({ colorScheme: dark ? "light" : "dark", reducedMotion: "reduce" }); // Else the colours are on their way.
      const [width, scheme, lang] = await page.evaluate(() => [innerWidth, matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light", document.documentElement.lang]);
      const at = `${where} at ${width}, ${scheme}, ${lang}`;
      const contrast = ["color-contrast"];
      await look(page, at, faults, turn === "colour" ? { runOnly: contrast } : turn === "language" ? { rules: { [contrast]: { enabled: false } } } : {});
      faults.push(...(await page.evaluate(misfits)).map((fault) => `${at}: ${fault}`));
      if (picture) await picture(`${width}-${scheme}`, lang);
    }
  }

  // copies clicks whatever copies a command.
  function copies(page) {
    return page.evaluate(() => {
      const top = document.querySelector("[role=dialog]") ?? document.querySelector("main");
      for (const button of top.querySelectorAll(".copy-as button")) button.click();
    });
  }

  // tried runs commands that were copied, for a tenant that has nothing, by a key that may do nothing to others. It returns those that the
  // server, or the program itself, does not understand; what they name is missing, and so they do nothing.
  async function tried(commands) {
    const wrong = [];
    const here = mkdtempSync(`${tmpdir()}/console-`); // What is downloaded would go there.
    await Promise.all([0, 1, 2, 3].map(async (lane) => {
      for (let i = lane; i < commands.length; i += 4) {
        const command = commands[i].replace("X-Tenant: acme", "X-Tenant: other");
        const answer = await new Promise((resolve) =>
          execFile("sh", ["-c", `timeout 10 ${command}`], { cwd: here, env: { ...process.env, PLINTH_API_KEY: other } }, (_, stdout, stderr) => resolve(stdout + stderr)));
        const known = /not.?found|permission.?denied|invalid.?argument|failed.?precondition|curl: \(22\).* 404/i.test(answer) || /^\s*\{|^(event|id|data|retry):/.test(answer); // What is listened to ends with the time.
        if (!known || /unmarshal|unknown field|unimplemented|unsupported|parse|curl: \((?!22\))|request data|usage/i.test(answer)) wrong.push(`${command}: ${answer}`);
      }
    }));
    check(readdirSync(here).length === 0, `the commands leave ${readdirSync(here)}`);
    rmSync(here, { recursive: true });
    return wrong;
  }

  // gets reports whether an element gets the focus.
  async function gets(by) {
    const held = (e) => e === document.activeElement;
    return by.page().waitForFunction(held, await by.elementHandle(), { timeout: 5_000 }).catch(() => false);
  }

  // Every dialog, those that have no address among them: nothing for axe to find, the focus is in it and stays there, Escape closes it, and the
  // focus is back at what opened it.
  async function dialogs(visit) {
    const { t } = visit;
    const page = await visit.signedIn(admin, "/settings", { "plinth.tenant": "acme" });
    await page.evaluate(axe);
    await page.evaluate(() => {
      window.copied = [];
      navigator.clipboard.writeText = async (text) => void window.copied.push(text);
    });
    const button = (key, values) => page.locator("main").getByRole("button", { name: typeof key === "string" && key.includes(".") ? t(key, values) : key, disabled: false }).first();
    const inside = (key, values) => page.getByRole("dialog").getByRole("button", { name: t(key, values) });
    const row = page.locator("tbody button.link").first();
    const select = async (key) => {
      const boxes = page.locator("tbody input[type=checkbox]");
      await (visit.width === narrow.width ? boxes.last() : boxes.first()).check(); // One of them redrives it.
      return button(key);
    };
    const all = [
      ["/queues", "queue.new"], ["/queues/orders", "queue.policy.edit"], ["/queues/orders", "queue.purge"], ["/queues/orders", "action.delete"],
      ["/queues/way/messages", row], ["/queues/way/waiting", () => select("waiting.cancel.chosen")],
      ["/queues/large/dead", row], ["/queues/large/dead", "dead.redrive.all"], ["/queues/large/dead", "dead.purge.all"],
      ["/queues/large/dead", () => select("dead.redrive.chosen")],
      ["/queues/large/dead", row, async () => {
        await inside("dead.edit").click();
        await page.getByRole("dialog").getByRole("textbox").nth(1).fill("a=b");
        await page.getByText("+ a=b").waitFor();
      }],
      ["/queues/large/dead", row, () => inside("dead.purge").click()],
      ["/queues/ten-thousand/dead", () => select("dead.redrive.chosen"), () => inside("bulk.redrive.go", { n: 1 }).click()],
      ["/schedules", "schedule.new"], ["/schedules/hourly", "schedule.trigger"], ["/schedules/hourly", "queue.pause"],
      ["/schedules/hourly", "action.edit"], ["/schedules/hourly", "action.delete"], ["/schedules/hourly", row],
      ["/files", row], ["/files", row, () => inside("file.share").click()], ["/files", row, () => inside("action.delete").click()],
      ["/files", () => select("files.delete")],
      ["/cache?key=session/1", "action.delete"], ["/locks", "lock.force"],
      ["/tenants", "tenant.new"], ["/tenants/acme", "action.edit"], ["/tenants/acme", "action.delete"],
      ["/tenants/acme", button("key.revoke.of", { name: "plinth_" })],
      ["/tenants/acme", "key.new"], ["/tenants/acme", "key.new", () => inside("action.create").click()],
    ];
    const faults = [];
    for (const [path, opener, more] of all) {
      await go(page, path);
      const by = typeof opener === "function" ? await opener() : typeof opener === "string" ? button(opener) : opener;
      await by.focus();
      await page.keyboard.press("Enter");
      const dialog = page.getByRole("dialog");
      await dialog.waitFor();
      await page.waitForFunction(() => !document.querySelector("[role=dialog] .waiting"));
      await more?.();
      const title = await dialog.getByRole("heading").first().textContent();
      const at = `${path}, ${title}`;
      await copies(page);
      await look(page, at, faults);
      faults.push(...(await page.evaluate(misfits)).map((fault) => `${at}: ${fault}`));
      const controls = await dialog.evaluate((e) => e.querySelectorAll("a, button, input, select, textarea, summary, [tabindex='0']").length);
      for (let i = 0; i < controls + 3; i++) {
        const held = () => document.querySelector("[role=dialog]").contains(document.activeElement);
        if (!(await page.waitForFunction(held, null, { timeout: 5_000 }).catch(() => false))) {
          faults.push(`${at}: after ${i} times Tab the focus is at ${await page.evaluate(() => document.activeElement.outerHTML.slice(0, 200))}`);
          break;
        }
        await page.keyboard.press("Tab");
      }
      for (let i = 0; i < 3 && (await dialog.count()) > 0; i++) {
        const title = await dialog.getByRole("heading").first().textContent();
        await page.keyboard.press("Escape");
        await page.waitForFunction((title) => document.querySelector("[role=dialog] h2")?.textContent !== title, title);
      }
      if ((await dialog.count()) > 0) faults.push(`${at}: Escape does not close it`);
      else if (typeof opener !== "function" && !(await gets(by))) { // Others go with what was selected.
        faults.push(`${at}: the focus comes back to ${await page.evaluate(() => document.activeElement.outerHTML.slice(0, 200))}`);
      }
    }
    if (visit.width === narrow.width) return faults; // It copies the same.
    for (const path of ["/queues/orders", "/queues/orders/publish", "/queues/way/messages", "/queues/way/tail", "/schedules/hourly/backfill", "/channels?channel=news.eu", "/channels?channel=news.*", "/cache?key=session/1"]) {
      await go(page, path);
      await page.locator("main .copy-as").first().waitFor();
      await copies(page);
    }
    // Linux takes no argument of more than 128 KiB, which the message of a megabyte is.
    const commands = [...new Set(await page.evaluate(() => window.copied))].filter((command) => command.length < 100_000);
    if (commands.length < 50) faults.push(`only ${commands.length} commands were copied`);
    return [...faults, ...(await tried(commands))];
  }

  // reach goes to something by the keyboard alone.
  async function reach(page, what) {
    for (let i = 0; i < 100; i++) {
      if (await what.evaluate((e) => e === document.activeElement)) return;
      await page.keyboard.press("Tab");
    }
    throw new Error(`the keyboard does not reach ${what}`);
  }

  return {
    async keyboard(visit) {
      const { t } = visit;
      const page = await visit.signedIn(acme, "/");
      const faults = [];
      await page.evaluate(axe);
      await page.getByRole("heading", { name: t("nav.overview"), level: 1 }).waitFor();
      await page.keyboard.press("g");
      await page.keyboard.press("q");
      await page.getByRole("link", { name: "orders" }).waitFor();
      await page.keyboard.press("j");
      await page.keyboard.press("j");
      await page.keyboard.press("j");
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: "orders", level: 1 }).waitFor();
      await reach(page, page.locator(".tabs").getByRole("link", { name: t("queue.tab.publish") }));
      await page.keyboard.press("Enter");
      const payload = page.getByLabel(t("publish.payload"), { exact: true });
      await payload.waitFor();
      await reach(page, payload);
      await page.keyboard.type("by hand");
      await reach(page, page.getByRole("button", { name: t("publish"), exact: true }));
      await page.keyboard.press("Enter");
      await page.getByText(t("publish.done")).waitFor();
      await page.keyboard.press("Control+k");
      await page.getByRole("combobox", { name: t("palette.open") }).fill("tick");
      await page.getByRole("option", { name: /tick/ }).waitFor();
      await look(page, "the palette", faults);
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: "tick", level: 1 }).waitFor();
      await page.keyboard.press("?");
      await page.getByRole("dialog").getByText(t("keys.select")).waitFor();
      await look(page, "the keys", faults);
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "detached" });
      check(faults.length === 0, faults.join("\n"));
    },

    async dialogs(visit) {
      await call(acme, "plinth.lock.v1.LockService", "Acquire", { name: `held/${process.pid}`, owner: "a worker", ttl: "600s" });
      const second = new Visit(narrow);
      const faults = (await Promise.all([visit, second].map(dialogs))).flat();
      await second.over();
      check(faults.length === 0, faults.join("\n"));
    },

    // Every page, wide and narrow, light and dark, in both languages: nothing for axe to find, and nothing that does not fit. The wide ones are
    // loaded each, and so each has an address; the narrow ones are come to from another.
    async pages(visit) {
      const paths = await addresses();
      const faults = [];
      const second = new Visit(narrow);
      await Promise.all([visit, second].map(async (v) => {
        const page = await v.signedIn(admin, "/settings", { "plinth.tenant": "acme" });
        let names = new Set();
        page.on("request", (request) => names.add(/\/assets\/[^/]+\/(.+)$/.exec(request.url())?.[1]));
        for (const path of paths) {
          if (v === visit || path === "/") {
            names = new Set();
            await page.evaluate(() => localStorage.clear()); // The language that was chosen last would be loaded, too.
            await page.goto(server + path);
            await page.evaluate(axe);
            await quiet(page);
          } else {
            await go(page, path);
          }
          if (v === visit) loaded.set(path, new Set(names));
          await inAllColours(page, path, faults, pictures && (async (look, lang) => {
            if (!["1280-light en", "360-dark zh-CN"].includes(`${look} ${lang}`)) return;
            const name = path.replace(/[0-9a-f-]{36}/, "one").match(/[a-z]+/gi)?.join("-") ?? "overview";
            await page.screenshot({ path: `${pictures}/${name}-${look}.png` });
          }));
        }
        if (v === visit) { // As far as the browser goes, 200 % of 1280 px is a page of 640.
          await page.setViewportSize({ width: 640, height: 450 });
          for (const path of paths) {
            await go(page, path);
            faults.push(...(await page.evaluate(misfits)).map((fault) => `${path} at 200 %: ${fault}`));
          }
        }
        const start = await (await v.newContext()).newPage();
        await start.goto(server);
        await start.getByLabel(v.t("signIn.key")).waitFor();
        await start.evaluate(axe);
        await inAllColours(start, "sign-in", faults);
      }));
      await second.over();
      check(faults.length === 0, faults.join("\n"));
    },

    // The first page loads at most 150 kB, and every other one at most 35 kB more, compressed with brotli.
    async budget() {
      const faults = [];
      const parts = readdirSync("dist").filter((name) => /\.(js|css|svg)$/.test(name) && !/^(docs|library)\./.test(name));
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
    async docs(visit) {
      const page = await (await visit.newContext()).newPage();
      page.setDefaultTimeout(120_000); // The document is large, and a busy browser takes its time.
      let asked = 0;
      page.on("request", (request) => request.url().endsWith("/openapi.yaml") && asked++);
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
      check(asked === 1, `the document is asked for ${asked} times`);
    },

    // On a phone, what the page is stands there before the library that shows the document comes, and the groups of the document are closed.
    async "docs on a phone"(visit) {
      const page = await (await visit.newContext({ viewport: { width: 360, height: 800 } })).newPage();
      page.setDefaultTimeout(120_000);
      let release;
      const held = new Promise((resolve) => (release = resolve));
      await page.route("**/library.js", async (route) => (await held, route.continue()));
      await page.goto(`${server}/docs`, { waitUntil: "domcontentloaded" });
      const lead = page.getByText("as one OpenAPI document");
      await lead.waitFor();
      const faults = [];
      await page.evaluate(axe);
      await look(page, "/docs, before its library", faults);
      faults.push(...(await page.evaluate(misfits)));
      release();
      const group = page.locator(".opblock-tag", { hasText: "MessageService" });
      await group.waitFor();
      await look(page, "/docs on a phone", faults);
      check(faults.length === 0, faults.join("\n"));
      check((await lead.count()) === 0, "what stood there first stays");
      check((await page.locator(".opblock").count()) === 0, "groups are open");
      await group.click();
      await page.locator('.opblock [data-path="/api/v1/queues/{name}"]').first().waitFor();
    },
  };
};

// misfits finds, in a page, what is wider than the screen, and text that is cut off without a sign of it. What can be scrolled fits.
function misfits() {
  const found = [];
  const over = document.documentElement.scrollWidth - innerWidth;
  if (over > 0) found.push(`it is ${over} px wider than the screen`);
  const top = document.querySelector("[role=dialog]") ?? document.body; // What is behind a dialog is looked at without it.
  const texts = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (!text.data.trim() || found.length > 5) continue;
    range.selectNodeContents(text);
    const rect = range.getBoundingClientRect();
    if (rect.width < 2) continue;
    for (let e = text.parentElement; e && e !== document.documentElement; e = e.parentElement) {
      const style = getComputedStyle(e);
      const box = e.getBoundingClientRect();
      if (e.matches(".hidden, .skip") || style.textOverflow === "ellipsis" || /auto|scroll/.test(style.overflowX)) break;
      const holds = e.matches("button, .button, td, th, dd, dt, .panel, .tabs a, .status") || /hidden|clip/.test(style.overflowX) || e === document.body;
      if (holds && style.display !== "inline" && (rect.left < box.left - 1 || rect.right > box.right + 1)) {
        found.push(`${JSON.stringify(text.data.slice(0, 60))} does not fit into ${e.tagName.toLowerCase()}.${e.className}`);
        break;
      }
      if (style.position === "fixed" || style.position === "absolute") break;
    }
  }
  return found;
}
