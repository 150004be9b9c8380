// Opens pages in headless Chromium and has each call Plinth by both protocols that browsers have:
// PLINTH_API_KEY=... node --input-type=module - <chromium> <URL of Plinth> <URL of page.html>... <browser.mjs
import { chromium } from "playwright-core";

const [executablePath, server, ...urls] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
try {
  const results = [];
  for (const url of urls) {
    const page = await browser.newPage();
    page.on("console", (line) => console.error(line.text(), line.location().url));
    page.on("pageerror", (error) => console.error(error));
    await page.goto(url);
    const result = {};
    for (const protocol of ["connect", "grpc-web"]) {
      result[protocol] = await page.evaluate((args) => window.call(...args), [server, process.env.PLINTH_API_KEY, protocol]);
    }
    results.push(result);
  }
  console.log(JSON.stringify(results));
} finally {
  await browser.close();
}
