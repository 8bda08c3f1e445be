// Every view of a chain that is busy: for those who see badly, in the dark, on a phone, and on a slow line.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { HOSTILE, fillChain, install, siteName } from "./chain.mjs";
import { accessible, fits, picture, signedIn, start, startHq, until } from "./hq.mjs";
import { digits, playedNode } from "./played.mjs";

const SITE = "/sites/" + encodeURIComponent(siteName(0));

/** Each view, and what is on it when it is there. */
function views(version, machine) {
  return [
    ["overview", "/", "Where something goes on"],
    ["sites", "/sites", siteName(0)],
    ["site", SITE, "Who feeds whom"],
    ["site-nodes", SITE + "/nodes", "back-office PC"],
    ["site-orders", SITE + "/orders", "all machines"],
    ["site-events", SITE + "/events", "asked for a boot file"],
    ["site-wan", SITE + "/wan", "By time of day"],
    ["site-admission", SITE + "/admission", "Vouchers"],
    ["machines", "/machines", "SN-"],
    ["machines-failed", "/machines?state=failed", "SN-"],
    ["machine", machine, "Who it is"],
    ["images", "/images", "back-office"],
    ["image", "/images/" + version, "Sites that fetched it"],
    ["orders", "/orders", siteName(0)],
    ["nothing", "/nothing/here", "belongs to no view"],
    ["order-new", "/orders?new=order", "Machines that have finished"],
    ["nodes", "/nodes", "back-office PC"],
    ["events", "/events", "asked for a boot file"],
    ["ledger", "/ledger", siteName(1)],
    ["people", "/people", "night-build"],
    ["person", "/people?account=technician-north", "Save role and scope"],
    ["audit", "/audit", "night-build"],
    ["keys", "/keys", "Authority keys"],
    ["account", "/account", "Authenticator"],
  ];
}

/** Real nodes in some sites, so that bytes go over the WAN. */
async function fetchSome(t, { api, folder, environment }, sites) {
  for (const [at, site] of sites.entries()) {
    const { token } = await api("POST", `/sites/${encodeURIComponent(site)}/tokens`);
    start(t, "lamplighter", ["node", "--dir", join(folder, "node" + at), "--enrol", token, "--boot", "off", "--no-beacons", "--name", "till 1",
      "--listen", "127.0.0.1:0", "--slab-bytes", String(64 << 20)], environment);
  }
  await until("their bytes are counted", async () => (await api("GET", "/ledger")).rows.length >= sites.length);
}

test("every view is accessible, in light and dark, and fits a phone", async (t) => {
  const hq = await startHq(t, { viewport: { width: 1360, height: 860 } });
  const { url, page, api } = hq;
  const { version, nodes, goOn } = await fillChain(hq);
  t.after(() => nodes.forEach(({ node }) => node.end()));
  await fetchSome(t, hq, [siteName(0), siteName(1), siteName(2)]);
  const imaging = (await api("GET", "/machines?state=imaging")).rows[0];
  const machine = `/sites/${encodeURIComponent(imaging.site)}/machines/${imaging.id}`;
  await signedIn(hq, "ada", "administrator");
  const look = async (path, words) => {
    await page.goto(url + path);
    // what moves has a speed after some reports
    for (let times = 0; path === "/" && times < 4; times += 1) {
      await page.waitForTimeout(400);
      await goOn();
    }
    await page.getByText(words).first().waitFor({ state: "attached" });
    await page.waitForFunction(() => document.querySelector(".skeleton") === null);
  };
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const { node } of nodes) await node.alive();
    for (const [name, path, words] of views(version, machine)) {
      await look(path, words);
      await picture(page, colorScheme === "light" ? name : `${name}-dark`);
      await accessible(page, `${name}, ${colorScheme}`);
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 360, height: 740 });
  for (const [name, path, words] of views(version, machine)) {
    await look(path, words);
    await fits(page, name);
    await picture(page, `${name}-phone`);
  }
  await page.goto(url);
  await page.getByRole("button", { name: "Menu" }).click();
  await page.getByRole("link", { name: "Sites", exact: true }).waitFor();
  await fits(page, "the menu");
  await accessible(page, "the menu on a phone");
  await picture(page, "menu-phone");
});

test("what machines and people say is text", async (t) => {
  const hq = await startHq(t);
  const { url, page, api } = hq;
  await api("POST", "/sites", { name: HOSTILE });
  const site = "/sites/" + encodeURIComponent(HOSTILE);
  const { token } = await api("POST", site + "/tokens");
  const node = await playedNode(hq, token, "<b>node</b>");
  t.after(() => node.end());
  const machine = digits("hostile", 32);
  const facts = { uuid: null, serial: "<i>serial</i>", macs: [], model: "<u>model</u>", code: "<s>c</s>" };
  await node.report({ kind: "waiting", machine, facts }, { kind: "trouble", message: HOSTILE },
    { kind: "install", machine, report: install("failed", digits("v", 64), 0, [[HOSTILE, 3], [HOSTILE, 4], ["HQ", 1]], HOSTILE) });
  await signedIn(hq, "ada", "administrator");
  for (const path of ["/", "/sites", "/machines", "/nodes", "/events", "/orders", "/audit", "/people", site, site + "/nodes", site + "/events", site + "/admission", `${site}/machines/${machine}`]) {
    await page.goto(url + path);
    await page.getByRole("main").getByText(/<(img|b|i|u|s)\b|site ".*made|ada|No order/).first().waitFor({ state: "attached" });
    assert.equal(await page.locator("main img, main b, main u, main s").count(), 0, path);
  }
});

test("the first view is light", async (t) => {
  const hq = await startHq(t);
  const { url, page, context } = hq;
  const wire = await context.newCDPSession(page);
  await wire.send("Network.enable");
  const sizes = new Map();
  wire.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => sizes.set(requestId, encodedDataLength));
  await signedIn(hq, "ada", "administrator");
  await page.getByRole("heading", { name: "What comes next" }).waitFor();
  const sum = [...sizes.values()].reduce((all, one) => all + one, 0);
  t.diagnostic(`first view: ${(sum / 1000).toFixed(1)} kB in ${sizes.size} answers`);
  assert.ok(sum < 200_000, `${sum} bytes`);
  // again: what never changes is not asked for again
  sizes.clear();
  await page.goto(url + "/sites");
  await page.getByText("No site yet").waitFor();
  const again = [...sizes.values()].reduce((all, one) => all + one, 0);
  t.diagnostic(`another view: ${(again / 1000).toFixed(1)} kB`);
  assert.ok(again < 20_000, `${again} bytes`);
});

test("addresses of views are answered with the page, others as they should be", async (t) => {
  const { url, context } = await startHq(t);
  const get = (path, headers = {}) => context.request.get(url + path, { headers, failOnStatusCode: false });
  const index = await get("/");
  const { etag } = index.headers();
  for (const path of ["/sites/0042%20Graz", "/machines?state=failed", "/nothing/at/all"]) {
    const answer = await get(path);
    assert.equal(answer.status(), 200, path);
    assert.equal(await answer.text(), await index.text());
    assert.equal(answer.headers()["cache-control"], "no-cache");
  }
  assert.equal((await get("/", { "if-none-match": etag })).status(), 304);
  for (const path of ["/api/v1/nothing", "/api", "/assets/nothing.js"]) {
    const answer = await get(path);
    assert.equal(answer.status(), 404, path);
    assert.ok((await answer.json()).error);
  }
  const script = /src="([^"]+)"/.exec(await index.text())[1];
  const headers = (await get(script)).headers();
  assert.match(headers["cache-control"], /immutable/);
  assert.equal(headers["content-encoding"], "gzip");
});
