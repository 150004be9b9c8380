// Who may see what.
export default ({ server, acme, admin, other, call, messages, check }) => ({
  // A tenant is made, gets a key, which is shown once and works, and an administrator sees for whom she acts.
  async tenants(visit) {
    const { t } = visit;
    const page = await visit.signedIn(admin, "/tenants?new=1");
    await page.getByLabel(t("col.name"), { exact: true }).fill("made-here");
    await page.getByRole("button", { name: t("action.create") }).click();
    await page.getByRole("button", { name: t("key.new") }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel(t("key.all")).check();
    await dialog.getByRole("button", { name: t("action.create") }).click();
    const key = await dialog.getByRole("region", { name: t("signIn.key") }).textContent();
    await dialog.getByRole("button", { name: t("key.kept") }).click();
    await messages(key.trim(), "ListQueues", {});
    check(!(await page.content()).includes(key.trim()), "the key is still on the page");
    await page.getByRole("button", { name: t("tenant.act") }).click();
    check((await page.getByLabel(t("session.acting")).inputValue()) === "made-here", "the page does not say for whom she acts");
    await page.goto(`${server}/queues`);
    await page.getByText(t("queues.none")).waitFor();
  },

  // Another tenant sees nothing of what is there by then, and is led to nothing.
  async isolation(visit) {
    const { t } = visit;
    const page = await visit.signedIn(other, "/queues");
    await page.getByText(t("queues.none"), { exact: true }).waitFor();
    for (const path of ["/queues/orders/dead", "/schedules/tick"]) {
      await page.goto(server + path);
      await page.getByRole("alert").getByText(t("hint.gone")).first().waitFor();
    }
    for (const [path, none] of [["/schedules", "schedules.none"], ["/files", "files.none"], ["/locks", "locks.none"], ["/cache?key=session/1", "cache.missing"]]) {
      await page.goto(server + path);
      await page.getByText(t(none), { exact: true }).waitFor();
    }
    check((await page.getByRole("link", { name: t("nav.tenants") }).count()) === 0, "who is no administrator is led to the tenants");
  },

  async "a key that is revoked while it is used"(visit) {
    const { t } = visit;
    const { key, apiKey } = await call(admin, "plinth.tenant.v1.TenantService", "CreateApiKey", { tenant: "acme", scopes: ["queues.read"] });
    const page = await visit.signedIn(key, "/queues/orders");
    await page.getByText(t("queue.policy"), { exact: true }).waitFor();
    await call(admin, "plinth.tenant.v1.TenantService", "RevokeApiKey", { id: apiKey.id });
    await page.getByText(t("signIn.expired")).waitFor();
  },
});
