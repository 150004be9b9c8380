// Opens an EventSource in headless Chromium and prints what it receives, a line for each event, until one says "the end":
// node --input-type=module - <chromium> <URL of a page> <URL of the stream> <eventsource.mjs
import { chromium } from "playwright-core";

const [executablePath, url, stream] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
try {
  const page = await browser.newPage();
  page.on("console", (line) => console.error(line.text()));
  page.on("pageerror", (error) => console.error(error));
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  await page.exposeFunction("received", (data) => {
    console.log(data);
    if (data.includes("the end")) end();
  });
  await page.goto(url);
  await page.evaluate((url) => {
    const events = new EventSource(url);
    events.onmessage = (event) => window.received(event.data);
    events.onerror = () => window.received(JSON.stringify({ state: events.readyState }));
  }, stream);
  await ended;
} finally {
  await browser.close();
}
