// Every view of a chain that is busy: for those who see badly, in the dark, on a phone, and on a slow line.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fillChain, siteName } from "./chain.mjs";
import { accessible, fits, picture, signedIn, startHq } from "./hq.mjs";

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
    ["order-new", "/orders?new=order", "Machines that have finished"],
    ["nodes", "/nodes", "back-office PC"],
    ["events", "/events", "asked for a boot file"],
    ["ledger", "/ledger", "No byte yet"],
    ["people", "/people", "night-build"],
    ["person", "/people?account=jonas", "Save role and scope"],
    ["audit", "/audit", "accounts"],
    ["keys", "/keys", "Authority keys"],
    ["account", "/account", "Authenticator"],
  ];
}

test("every view is accessible, in light and dark, and fits a phone", async (t) => {
  const hq = await startHq(t, { viewport: { width: 1360, height: 860 } });
  const { url, page, api, context } = hq;
  const { version, nodes } = await fillChain(hq);
  t.after(() => nodes.forEach(({ node }) => node.end()));
  const imaging = (await api("GET", "/machines?state=imaging")).rows[0];
  const machine = `/sites/${encodeURIComponent(imaging.site)}/machines/${imaging.id}`;
  await signedIn(hq, "ada", "administrator");
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    for (const [name, path, words] of views(version, machine)) {
      await page.goto(url + path);
      await page.getByText(words).first().waitFor();
      await page.waitForLoadState("load");
      await picture(page, colorScheme === "light" ? name : `${name}-dark`);
      await accessible(page, `${name}, ${colorScheme}`);
    }
  }
  await page.setViewportSize({ width: 360, height: 740 });
  for (const [name, path, words] of views(version, machine)) {
    await page.goto(url + path);
    await page.getByText(words).first().waitFor({ state: "attached" });
    await fits(page, name);
    await picture(page, `${name}-phone`);
  }
  await accessible(page, "phone");
  await context.clearCookies();
});
