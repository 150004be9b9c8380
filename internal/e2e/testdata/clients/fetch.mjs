// Opens a page in headless Chromium and has it send one request:
// node --input-type=module - <chromium> <URL of the page> <JSON of url, method, headers, body> <fetch.mjs
import { chromium } from "playwright-core";

const [executablePath, page, request] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const tab = await browser.newPage();
  tab.on("console", (line) => console.error(line.text()));
  await tab.goto(page);
  const result = await tab.evaluate(async ({ url, ...options }) => {
    const reply = await fetch(url, options);
    return { status: reply.status, text: await reply.text() };
  }, JSON.parse(request));
  console.log(JSON.stringify(result));
} finally {
  await browser.close();
}
