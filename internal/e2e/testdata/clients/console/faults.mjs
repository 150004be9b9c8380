// What pages say while something is away, or not known yet.
export default ({ server, acme, wide, narrow, Visit, messages, inject, check }) => ({
  // That nothing needs attention is said once it is known, and not before.
  async "what is not known yet"(visit) {
    const { t } = visit;
    const page = await visit.signedIn(acme, "/settings");
    const calm = page.getByText(t("overview.calm"));
    let release;
    const held = new Promise((resolve) => (release = resolve));
    await page.route("**/GetQueue", async (route) => (await held, route.continue()));
    await page.goto(server);
    await page.getByText(t("overview.ready"), { exact: true }).waitFor();
    await page.locator(".panel", { hasText: t("overview.attention") }).locator(".waiting").waitFor();
    check((await calm.count()) === 0, "nothing needs attention, although nothing is known");
    release();
    const begun = Date.now();
    await page.getByText(t("matter.dead", { n: 1 }), { exact: true }).waitFor();
    // The chart has a point every 5 s, and not for each queue.
    const points = await page.locator(".chart path").first().evaluate((e) => e.getAttribute("d").match(/[ML]/g).length);
    const most = 2 + (Date.now() - begun) / 5000;
    check(points <= most, `the chart has ${points} points, want at most ${most}`);
    await page.route("**/ListQueues", (route) => route.abort());
    await page.goto(server);
    await page.getByText(t("overview.unsure")).waitFor();
    check((await calm.count()) === 0, "nothing needs attention, although the queues are not known");
  },

  // What is known stays on the page while the server is away, and the page recovers by itself.
  async "the server away and back"(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "seen" });
    const page = await visit.signedIn(acme, "/queues/seen");
    await page.getByText(t("queue.policy"), { exact: true }).waitFor();
    await page.context().setOffline(true);
    await page.getByRole("alert").getByText(t("error.unreachable")).waitFor();
    await page.getByText(t("queue.policy"), { exact: true }).waitFor();
    await page.context().setOffline(false);
    await page.getByRole("alert").waitFor({ state: "detached" });
    await messages(acme, "DeleteQueue", { name: "seen" });
  },

  // A dialog whose first answer does not come is filled once one does.
  async "a dialog that is asked again"(visit) {
    const { t } = visit;
    const form = new FormData();
    form.append("file", new Blob(["here in the end"]), "in the end.txt");
    const sent = await fetch(`${server}/api/v1/upload`, { method: "POST", headers: { authorization: `Bearer ${acme}` }, body: form });
    check(sent.ok, `the upload has the status ${sent.status}`);
    const page = await visit.signedIn(acme, "/files");
    await page.route("**/GetFile*", (route) => route.abort());
    await page.getByRole("button", { name: "in the end.txt" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("alert").getByText(t("error.unreachable")).waitFor();
    await page.unroute("**/GetFile*");
    await dialog.getByText("here in the end").waitFor();
    check((await dialog.getByRole("alert").count()) === 0, "the dialog still shows what went wrong");
  },

  // While PostgreSQL is away, the overview says so, and so does the page that one goes to, however one looks at them. Both recover by themselves.
  async "PostgreSQL away and back"(visit) {
    const visits = [visit, new Visit(narrow)];
    const looks = await Promise.all(visits.map(async (v) => [v, await v.signedIn(v.key, "/")]));
    const each = (act) => Promise.all(looks.map(([v, page]) => act(page, v.t)));
    await each((page, t) => page.getByText(t("overview.ready"), { exact: true }).waitFor());
    await inject("postgres/away");
    try {
      await each(async (page, t) => {
        await page.getByText(t("overview.notReady"), { exact: true }).waitFor();
        await page.getByText(`postgres ${t("overview.away")}`).first().waitFor();
        await page.getByRole("link", { name: t("nav.schedules") }).first().click();
        await page.getByRole("alert").first().waitFor();
      });
    } finally {
      await inject("postgres/back");
    }
    await each(async (page, t) => {
      await page.getByRole("alert").first().waitFor({ state: "detached", timeout: 40_000 });
      await page.getByRole("cell", { name: "tick" }).first().waitFor();
      await page.getByRole("link", { name: t("nav.overview"), exact: true }).click();
      await page.getByText(t("overview.ready"), { exact: true }).waitFor({ timeout: 40_000 });
    });
    await visits[1].over();
  },
});
