// Uploads a file to Plinth with tus-js-client, and goes on wherever it is interrupted:
// PLINTH_API_KEY=... node --input-type=module - <url> <file> <tus.mjs
import { createReadStream, statSync } from "node:fs";
import * as tus from "tus-js-client";

const [url, path] = process.argv.slice(2);
let requests = 0;
const upload = new tus.Upload(createReadStream(path), {
  endpoint: `${url}/api/v1/uploads?folder=tus`,
  uploadSize: statSync(path).size,
  chunkSize: 4 << 20, // A stream can be sent again only as far back as this.
  headers: { Authorization: `Bearer ${process.env.PLINTH_API_KEY}` },
  metadata: { filename: "über.bin", filetype: "application/x-thing", author: "ada" },
  retryDelays: Array(10).fill(20),
  onBeforeRequest: () => void requests++,
  onError: (error) => {
    console.error(error);
    process.exit(1);
  },
  onSuccess: () => console.log(JSON.stringify({ location: upload.url, requests })),
});
upload.start();
