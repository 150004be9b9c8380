// How people come in, and go.
export default ({ server, issuer, inject, check }) => ({
  async "sign in"(visit) {
    const { t, key } = visit;
    const page = await (await visit.newContext()).newPage();
    const go = page.getByRole("button", { name: t("signIn.go"), exact: true });
    const queues = page.getByRole("heading", { name: t("nav.queues"), level: 1 });
    await page.goto(`${server}/queues`);
    for (const wrong of ["plinth_wrong", "ｐｌｉｎｔｈ_wrong", "plinth_\u0000"]) {
      await page.getByLabel(t("signIn.key")).fill(wrong);
      await go.click();
      await page.getByText(t("signIn.wrong")).waitFor();
      await page.getByLabel(t("signIn.key")).fill("");
    }
    await page.getByLabel(t("signIn.key")).fill(key);
    await go.click();
    await queues.waitFor();
    const kept = await page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie]));
    check(!kept.includes("plinth_"), `the browser keeps ${kept}`);
    await page.reload();
    await page.getByLabel(t("signIn.key")).fill(key);
    await page.getByLabel(t("signIn.remember")).check();
    await go.click();
    await queues.waitFor();
    await page.reload();
    await queues.waitFor();
    await page.getByRole("button", { name: t("session.out") }).click();
    await page.getByLabel(t("signIn.key")).waitFor();
  },

  // The browser goes to the issuer and comes back to where it was. The token is renewed while one works, until the issuer gives none any more.
  async "sign in at an issuer"(visit) {
    const { t } = visit;
    const seen = async (fault = "seen") => (await inject(`issuer/${fault}`)).json();
    const page = await (await visit.newContext({}, issuer)).newPage();
    const go = page.getByRole("button", { name: t("oidc.go", { issuer: new URL(issuer).host }) });
    const out = page.getByRole("button", { name: t("session.out") }).first();
    const queues = page.getByRole("heading", { name: t("nav.queues"), level: 1 });
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
    await page.getByRole("alert").getByText(t("oidc.lost")).waitFor();
    check(page.url() === `${server}/`, `the page is at ${page.url()}`);

    await page.goto(`${server}/queues?name=x`);
    await go.click();
    await queues.waitFor();
    check(page.url() === `${server}/queues?name=x`, `the page is at ${page.url()}`);
    const kept = () => page.evaluate(() => JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie]));
    check(!/eyJ|state|verifier/.test(await kept()), `the browser keeps ${await kept()}`);
    await page.goto(`${server}/queues`);
    await page.getByLabel(t("signIn.remember")).check();
    await go.click();
    await queues.waitFor();
    await page.reload();
    await queues.waitFor();
    await page.getByRole("button", { name: t("queue.new") }).click();
    const name = page.getByLabel(t("col.name"), { exact: true });
    await name.fill("half-writ");
    const before = (await seen()).renewals;
    while ((await seen()).renewals < before + 2) await page.waitForTimeout(200);
    check((await name.inputValue()) === "half-writ", "a renewal takes away what was written");
    await page.keyboard.press("Escape");
    await page.getByRole("link", { name: t("nav.settings") }).click();
    await page.getByText("Ada", { exact: true }).waitFor();
    await out.click();
    await go.waitFor();
    check(!/eyJ/.test(await kept()), `after signing out the browser keeps ${await kept()}`);
    while ((await seen()).revoked === 0) await page.waitForTimeout(100);
    await go.click();
    await out.waitFor();
    const { prompts } = await seen();
    check(prompts.at(-1) === "login" && !prompts.slice(0, -1).includes("login"), `the issuer was asked with the prompts ${JSON.stringify(prompts)}`);
    await seen("forget");
    await page.getByRole("alert").getByText(t("oidc.expired", { issuer: new URL(issuer).host })).waitFor();
  },
});
