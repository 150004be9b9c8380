// What runs at planned times.
export default ({ acme, hostile, call, messages, check }) => ({
  async schedules(visit) {
    const { t, key } = visit;
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
