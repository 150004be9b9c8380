// What runs at planned times.
export default ({ acme, hostile, call, messages, check }) => ({
  async schedules(visit) {
    const { t, key } = visit;
    await messages(key, "CreateQueue", { name: "orders" }).catch(() => {}); // It is there, unless this flow is tried alone.
    const page = await visit.signedIn(key, "/schedules?new=1");
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel(t("col.name"), { exact: true }).fill("tick");
    const expression = dialog.getByLabel(t("timing.expression"), { exact: true });
    await expression.fill("nonsense");
    await dialog.getByRole("alert").waitFor();
    await expression.fill("30 2 * * *");
    await dialog.getByLabel(t("timing.zone")).fill("Europe/Berlin");
    await dialog.getByText(/0?2:30/).first().waitFor();
    await expression.fill("* * * * * *");
    await dialog.getByText(visit.language === "zh" ? "每秒" : "Every second", { exact: true }).waitFor();
    await dialog.getByLabel(t("queue"), { exact: true }).fill("orders");
    await dialog.getByLabel(t("publish.payload"), { exact: true }).fill("tick {{fire_time}}");
    await dialog.getByRole("button", { name: t("action.create") }).click();
    await page.getByRole("cell", { name: t("run.succeeded") }).first().waitFor();
    await page.getByRole("row").nth(1).getByRole("button").click();
    await dialog.locator("dd", { hasText: t("trigger.schedule") }).waitFor();
    await dialog.getByRole("button", { name: t("action.close") }).last().click();
    await page.getByRole("button", { name: t("queue.pause") }).click();
    await page.getByLabel(t("schedule.note")).fill(hostile);
    await dialog.getByRole("button", { name: t("queue.pause") }).click();
    await page.locator(".notice", { hasText: "onerror" }).waitFor();
    await visit.tab(page, "schedule.tab.changes");
    await page.getByRole("cell", { name: t("change.create") }).waitFor();
  },

  // The preview marks the times that a change of the clocks moves or repeats, and no others.
  async "clocks that change"(visit) {
    const { t } = visit;
    const page = await visit.signedIn(acme, "/schedules?new=1");
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel(t("timing.zone")).fill("Europe/Berlin");
    // previewed waits for the ten next times of an expression, which are all in some months, and returns of each the instant without its year,
    // what a clock in Berlin shows, and the note.
    const previewed = async (expression, months) => {
      await dialog.getByLabel(t("timing.expression"), { exact: true }).fill(expression);
      const read = () => dialog.locator("tbody tr").evaluateAll((rows) => rows.map((row) => {
        const [zoned, , note] = row.cells;
        return [zoned.querySelector("time").dateTime.slice(5), zoned.textContent.match(/\d+:\d\d:\d\d/)[0].padStart(8, "0"), note.textContent.trim()];
      }));
      let rows = [];
      for (let i = 0; i < 100 && (rows.length < 10 || !rows.every(([at]) => months.includes(at.slice(0, 2)))); i++) {
        await page.waitForTimeout(100);
        rows = await read();
      }
      check(rows.length === 10, `${expression} has the next times ${JSON.stringify(rows)}`);
      return rows;
    };
    const expect = (rows, wanted) => {
      const seen = new Set(rows.map(([at, zoned, note]) => `${at.slice(0, 2)} ${at.slice(6, 14)} ${zoned} ${note}`.trim()));
      const all = wanted.map((words) => words.trim());
      check(seen.size === all.length && all.every((words) => seen.has(words)), `the times are ${[...seen].join("; ")}, want ${all.join("; ")}`);
    };
    // On the last Sunday of March there is no 2:30, and on that of October there are two, of which a fixed time takes the first.
    expect(await previewed("30 2 * 3,10 7L", ["03", "10"]), [
      `03 01:00:00 03:00:00 ${t("kind.shifted")}`, `10 00:30:00 02:30:00 ${t("kind.first")}`,
    ]);
    // What comes every half an hour comes in both.
    expect(await previewed("*/30 2 * 10 7L", ["10"]), [
      `10 00:00:00 02:00:00 ${t("kind.first")}`, `10 00:30:00 02:30:00 ${t("kind.first")}`,
      `10 01:00:00 02:00:00 ${t("kind.second")}`, `10 01:30:00 02:30:00 ${t("kind.second")}`,
    ]);
    expect(await previewed("30 2 1 7 *", ["07"]), ["07 00:30:00 02:30:00"]);
  },

  // What a backfill runs is shown before, and is what runs.
  async backfill(visit) {
    const { t } = visit;
    await messages(acme, "CreateQueue", { name: "filled" });
    await call(acme, "plinth.schedule.v1.ScheduleService", "Create", {
      name: "hourly", cron: "0 * * * *", publish: { queue: "filled", message: "{{fire_time}}" },
    });
    const page = await visit.signedIn(acme, "/schedules/hourly");
    await visit.tab(page, "backfill");
    await page.getByLabel(t("backfill.from")).fill("2026-01-05T10:30");
    await page.getByLabel(t("backfill.to")).fill("2026-01-05T13:30");
    await page.getByRole("button", { name: t("backfill.plan") }).click();
    await page.getByText(t("backfill.count", { n: 3 })).waitFor();
    const times = await page.getByRole("region", { name: t("backfill.times") }).getByRole("listitem").count();
    check(times === 3, `${times} fire times are shown`);
    check(!Number((await messages(acme, "GetQueue", { name: "filled" })).depth), "a plan runs something");
    await page.getByRole("button", { name: t("backfill.go", { n: 3 }) }).click();
    await page.getByText(t("backfill.over", { n: 3 })).waitFor();
    const { depth } = await messages(acme, "GetQueue", { name: "filled" });
    check(depth === "3", `${depth} messages were published`);
    await page.getByRole("cell", { name: t("run.succeeded") }).nth(2).waitFor();
  },
});
