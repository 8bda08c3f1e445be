// How heavy the page's first view is, and how soon it can be used. Called by `./dev bench hq`.
//
//     LAMPLIGHTER_TOKEN=TOKEN node first-view.mjs HQ TIMES
//
// Each time a browser that has never been there opens the overview as somebody who is signed in. Prints a line of JSON: bytes as they came
// over the wire, headers included, and milliseconds until the overview is there and a key has opened the list of sites.

import assert from "node:assert/strict";
import { PASSWORD, launch, signIn } from "./chromium.mjs";

const [url, times] = process.argv.slice(2);
const browser = await launch();
const options = { ignoreHTTPSErrors: true, viewport: { width: 1360, height: 860 } };

async function session() {
  const context = await browser.newContext(options);
  const headers = { authorization: "Bearer " + process.env.LAMPLIGHTER_TOKEN };
  const made = await context.request.post(url + "/api/v1/users", {
    headers, data: { name: "bench", role: "administrator", scope: { all: true }, password: PASSWORD },
  });
  assert.ok(made.ok(), await made.text());
  const page = await context.newPage();
  await page.goto(url);
  await signIn(page, "bench");
  await page.getByRole("banner").waitFor();
  const storageState = await context.storageState();
  await context.close();
  return storageState;
}

async function firstView(storageState) {
  const context = await browser.newContext({ ...options, storageState });
  const page = await context.newPage();
  const wire = await context.newCDPSession(page);
  await wire.send("Network.enable");
  let bytes = 0;
  wire.on("Network.loadingFinished", ({ encodedDataLength }) => (bytes += encodedDataLength));
  const begun = performance.now();
  await page.goto(url, { waitUntil: "commit" });
  await page.getByRole("region", { name: "Needs you" }).getByRole("listitem").first().waitFor();
  const shown = performance.now() - begun;
  const heavy = bytes;
  await page.keyboard.press("g");
  await page.keyboard.press("s");
  await page.getByRole("heading", { name: "Sites", exact: true }).waitFor();
  const used = performance.now() - begun;
  await context.close();
  return { bytes: heavy, shown_ms: Math.round(shown), used_ms: Math.round(used) };
}

const storageState = await session();
const views = [];
for (let turn = 0; turn < Number(times); turn += 1) views.push(await firstView(storageState));
await browser.close();
console.log(JSON.stringify(views));
