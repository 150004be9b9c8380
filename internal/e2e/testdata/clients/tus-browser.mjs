// Opens a page in headless Chromium and has it upload a file with tus-js-client, stop in the middle, and go on as a new upload would after
// the page was loaded again: PLINTH_API_KEY=... node --input-type=module - <chromium> <URL of the page> <URL of Plinth> <size> <tus-browser.mjs
import { chromium } from "playwright-core";

const [executablePath, page, url, size] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const options = { url, size: Number(size), key: process.env.PLINTH_API_KEY };

// upload uploads the whole file, or the first part of it.
const upload = async ({ url, size, key, stops }) => {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i++) bytes[i] = i % 251;
  const file = new File([bytes], "page.bin", { lastModified: 1 });
  let from = -1;
  const location = await new Promise((resolve, reject) => {
    const upload = new tus.Upload(file, {
      endpoint: `${url}/api/v1/uploads`,
      chunkSize: 4 << 20,
      headers: { Authorization: `Bearer ${key}` },
      metadata: { filename: file.name },
      retryDelays: [20, 20],
      onProgress: (sent) => void (from < 0 && (from = sent)),
      onChunkComplete: () => stops && upload.abort().then(() => resolve(upload.url)),
      onError: reject,
      onSuccess: () => resolve(upload.url),
    });
    upload.findPreviousUploads().then((previous) => {
      if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0]);
      upload.start();
    });
  });
  return { location, from };
};

try {
  const tab = await browser.newPage();
  tab.on("console", (line) => console.error(line.text()));
  const results = [];
  for (const stops of [true, false]) {
    await tab.goto(page);
    await tab.addScriptTag({ path: "node_modules/tus-js-client/dist/tus.min.js" });
    results.push(await tab.evaluate(upload, { ...options, stops }));
  }
  console.log(JSON.stringify(results));
} finally {
  await browser.close();
}
