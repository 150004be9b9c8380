// Files, values, locks and channels.
import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { promisify } from "node:util";

const sumOf = (bytes) => createHash("sha256").update(bytes).digest("hex");

// redPaper is a PDF of one page, which is red.
const redPaper = `%PDF-1.4
1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]/Contents 4 0 R>> endobj
4 0 obj <</Length 26>> stream
1 0 0 rg 0 0 200 100 re f
endstream endobj
trailer <</Root 1 0 R>>
`;

// shareOfRed returns, in a page, how much of a picture is red, from 0 to 1.
async function shareOfRed(png) {
  const picture = await createImageBitmap(new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))]));
  const canvas = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  canvas.drawImage(picture, 0, 0);
  const { data } = canvas.getImageData(0, 0, picture.width, picture.height);
  let red = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i] > 200 && data[i + 1] < 50 && data[i + 2] < 50) red++;
  return red / (data.length / 4);
}

export default ({ server, acme, admin, wide, hostile, call, inject, check }) => ({
  async channels(visit) {
    const { t } = visit;
    const page = await visit.signedIn(acme, "/channels");
    await page.getByLabel(t("channel.name")).fill("news.*");
    await page.getByRole("button", { name: t("channel.listen") }).click();
    await page.getByText(t("channel.open"), { exact: true }).waitFor();
    await page.getByLabel(t("channel.to")).fill("news.eu");
    await page.getByLabel(t("publish.payload"), { exact: true }).fill(hostile);
    await page.getByRole("button", { name: t("publish"), exact: true }).click();
    const line = page.getByRole("log").getByRole("button", { name: "news.eu" });
    await line.click();
    await page.getByRole("dialog").getByText("alert(2)").waitFor();
    await page.getByRole("dialog").getByRole("button", { name: t("action.close") }).click();
    // What comes while the network is away is there afterwards, once.
    await inject("network/away");
    await page.getByText(t("channel.connecting"), { exact: true }).waitFor();
    await call(acme, "plinth.channel.v1.ChannelService", "Publish", { channel: "news.us", text: "meanwhile" });
    await inject("network/back");
    await page.getByText("meanwhile").waitFor();
    const lines = await page.getByRole("log").getByRole("button").count();
    check(lines === 2, `${lines} messages are shown`);
  },

  // A large upload is paused, and cut, goes on where it was, and arrives whole.
  async "a large upload"(visit) {
    const { t, key } = visit;
    const folder = mkdtempSync(`${tmpdir()}/console-`);
    const bytes = randomBytes(visit.key === wide.key ? 100_000_000 : 20_000_000);
    const sum = sumOf(bytes);
    writeFileSync(`${folder}/large.bin`, bytes);
    const page = await visit.signedIn(key, "/files");
    const network = await page.context().newCDPSession(page);
    const slow = (uploadThroughput) =>
      network.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput });
    await network.send("Network.enable");
    await slow(bytes.length / 4);
    const requests = [];
    page.on("request", (request) => request.url().includes("/api/v1/uploads") && requests.push(request.method()));
    await page.getByLabel(t("upload.choose")).setInputFiles(`${folder}/large.bin`);
    const sent = page.getByRole("progressbar", { name: "large.bin" });
    const past = (share) => sent.evaluate(
      (e, share) => new Promise((resolve) => {
        const timer = setInterval(() => e.value > share * e.max && (clearInterval(timer), resolve()), 20);
      }), share);
    await past(0.3);
    await page.getByRole("button", { name: t("upload.pause"), exact: true }).click();
    await page.getByText(t("upload.paused"), { exact: true }).waitFor();
    await page.getByRole("button", { name: t("upload.resume"), exact: true }).click();
    await past(0.6);
    await inject("network/away");
    await slow(-1);
    await inject("network/back");
    await page.getByText(t("upload.done"), { exact: true }).waitFor({ timeout: 60_000 });
    const count = (method) => requests.filter((one) => one === method).length;
    check(count("POST") === 1 && count("PATCH") >= 2 && count("HEAD") >= 2, `the requests were ${requests}`);
    await page.getByRole("button", { name: "large.bin" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText(sum).waitFor();
    const [download] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("button", { name: t("file.download") }).click()]);
    const got = sumOf(readFileSync(await download.path()));
    check(got === sum, `what was downloaded has the checksum ${got}, want ${sum}`);
    // Whoever has the address that is shared can download it, without a key.
    await dialog.getByRole("button", { name: t("file.share") }).click();
    await dialog.getByRole("button", { name: t("file.share.go") }).click();
    const shared = await fetch(await dialog.getByRole("region", { name: t("file.share.url") }).textContent());
    const digest = sumOf(Buffer.from(await shared.arrayBuffer()));
    check(digest === sum, `what was shared has the status ${shared.status} and the checksum ${digest}`);
    rmSync(folder, { recursive: true });
  },

  // A PDF is shown by the browser's own viewer, in a process of its own, and nothing in it is taken for a part of a page.
  async "a PDF"(visit) {
    const { t } = visit;
    const page = await visit.signedIn(acme, "/files");
    await page.getByLabel(t("upload.choose")).setInputFiles([{ name: "paper.pdf", mimeType: "application/pdf", buffer: Buffer.from(redPaper + hostile) }]);
    await page.getByText(t("upload.done"), { exact: true }).waitFor();
    await page.getByRole("button", { name: "paper.pdf" }).click();
    const shown = page.locator("iframe[title='paper.pdf']");
    await shown.waitFor();
    const isViewer = (frame) => frame.url().startsWith("chrome-extension:");
    for (let i = 0; i < 100 && !page.frames().some(isViewer); i++) await page.waitForTimeout(100);
    const frames = page.frames().map((frame) => frame.url());
    check(page.frames().some(isViewer), `the browser's viewer does not show it: there are ${frames}`);
    check(frames.filter((url) => url.startsWith("http")).length === 1, `more is shown than a PDF: ${frames}`);
    const type = await shown.evaluate((e) => e.contentDocument?.contentType);
    check(type === "application/pdf", `it is shown as ${type}`);
    let share = 0;
    for (let i = 0; i < 50 && share < 0.1; i++) {
      share = await page.evaluate(shareOfRed, (await shown.screenshot()).toString("base64"));
      await page.waitForTimeout(100);
    }
    check(share >= 0.1, `${share} of what is shown is red, as the page is`);
  },

  // A file is uploaded, listed and downloaded, and is the same.
  async files(visit) {
    const { t, key } = visit;
    const bytes = randomBytes(3 << 20);
    const sum = sumOf(bytes);
    const page = await visit.signedIn(key, "/files");
    await page.getByLabel(t("upload.choose")).setInputFiles([
      { name: "random.bin", mimeType: "application/octet-stream", buffer: bytes },
      { name: `${hostile.replaceAll("/", "")}.html`, mimeType: "text/html", buffer: Buffer.from(`<title>x</title>${hostile}`) },
      { name: "evil.svg", mimeType: "image/svg+xml", buffer: Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(3)"/>`) },
      {
        name: "dot.png", mimeType: "image/png",
        buffer: Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==", "base64"),
      },
    ]);
    for (let i = 0; i < 4; i++) await page.getByText(t("upload.done"), { exact: true }).nth(i).waitFor();
    await page.getByRole("button", { name: "random.bin" }).click();
    const dialog = page.getByRole("dialog");
    const close = dialog.getByRole("button", { name: t("action.close") });
    await dialog.getByText(sum).waitFor();
    const [download] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("button", { name: t("file.download") }).click()]);
    const got = sumOf(readFileSync(await download.path()));
    check(got === sum, `what was downloaded has the checksum ${got}, want ${sum}`);
    check(download.suggestedFilename() === "random.bin", `it is saved as ${download.suggestedFilename()}`);
    await close.click();
    for (const name of ["onerror", "evil.svg"]) {
      await page.getByRole("button", { name }).click();
      await dialog.getByRole("region", { name: t("payload") }).getByText(/alert\(/).waitFor();
      await close.click();
    }
    await page.getByRole("button", { name: "dot.png" }).click();
    const image = dialog.getByRole("img", { name: "dot.png" });
    await image.waitFor();
    check(await image.evaluate((i) => i.decode().then(() => i.naturalWidth === 1)), "the image is not shown");
    await close.click();
    await page.getByLabel(t("table.one", { name: "random.bin" })).check();
    await page.getByRole("button", { name: t("files.delete") }).click();
    await dialog.getByRole("button", { name: t("action.delete") }).click();
    await page.getByText(t("files.deleted", { n: 1 })).waitFor();
  },

  // Commands that were copied upload a file, download it and delete it with another one, whatever they are called.
  async "files by copied commands"(visit) {
    const { t } = visit;
    const folder = mkdtempSync(`${tmpdir()}/console-`);
    const page = await visit.signedIn(acme, "/files");
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    // run runs the command that a button copies, in a shell of which the folder is the current one.
    const run = async (button, env) => {
      await page.evaluate(() => navigator.clipboard.writeText(""));
      await button.click();
      let command = "";
      for (let i = 0; i < 100 && !command; i++) command = await page.evaluate(() => navigator.clipboard.readText());
      check(!command.includes("plinth_"), `the key is in ${command}`);
      const { stdout } = await promisify(execFile)("sh", ["-e", "-c", command], { cwd: folder, env: { ...process.env, PLINTH_API_KEY: acme, ...env } });
      return stdout;
    };
    const as = (program, where) => where.getByRole("button", { name: program, exact: true });
    const bytes = randomBytes(1 << 20);
    const names = [`it's "$HOME" [1] {a,b} #1 & 100 %.bin`, "another.bin"];
    const upload = page.locator(".panel", { hasText: t("upload.drop") });
    const dialog = page.getByRole("dialog");
    await page.goto(`${server}/files?folder=${encodeURIComponent("tax & co/2026")}`);
    for (const program of ["curl", "grpcurl"]) {
      for (const name of names) {
        writeFileSync(`${folder}/${name}`, bytes);
        const sent = JSON.parse(await run(as("curl", upload), { FILE: name }));
        check(sent.filename === name && sent.folder === "tax & co/2026" && sent.checksum === sumOf(bytes), `the server has ${JSON.stringify(sent)}`);
        rmSync(`${folder}/${name}`);
      }
      await page.reload();
      for (const name of names) {
        await page.getByRole("button", { name, exact: true }).click();
        await run(as("curl", dialog));
        check(sumOf(readFileSync(`${folder}/${name}`)) === sumOf(bytes), `${name} is not what was uploaded`);
        await dialog.getByRole("button", { name: t("action.close") }).click();
        await page.getByLabel(t("table.one", { name }), { exact: true }).check();
      }
      await page.getByRole("button", { name: t("files.delete") }).click();
      await run(as(program, dialog));
      await page.reload();
      await page.getByText(t("filter.none")).waitFor();
    }
    rmSync(folder, { recursive: true });
  },

  async "cache and locks"(visit) {
    const { t } = visit;
    await call(acme, "plinth.cache.v1.CacheService", "Set", { key: "session/1", value: Buffer.from('{"a":1}').toString("base64") });
    for (const key of [acme, admin]) await call(key, "plinth.lock.v1.LockService", "Acquire", { name: "nightly", owner: hostile, ttl: "600s" });
    const page = await visit.signedIn(acme, "/cache");
    const find = async (key) => {
      await page.getByLabel(t("cache.key"), { exact: true }).fill(key);
      await page.getByRole("button", { name: t("action.find") }).click();
    };
    await find("session/1");
    await page.getByText('"a": 1').waitFor();
    await find("nothing");
    await page.getByText(t("cache.missing")).waitFor();
    const boss = await visit.signedIn(admin, "/locks");
    await boss.getByRole("button", { name: `${t("lock.force")} nightly` }).click();
    await boss.getByLabel(t("lock.reason")).fill("its worker is gone");
    await boss.getByRole("dialog").getByRole("button", { name: t("lock.force") }).click();
    await boss.getByText(t("locks.none")).waitFor();
    await boss.getByRole("cell", { name: "its worker is gone" }).waitFor();
  },
});
