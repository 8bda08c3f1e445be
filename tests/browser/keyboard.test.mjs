// Without a mouse: the palette, letters, dialogs, several rows at once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fillChain, siteName } from "./chain.mjs";
import { accessible, picture, signedIn, startHq, until } from "./hq.mjs";

const focused = (page) => page.evaluate(() => document.activeElement?.textContent?.trim() ?? "");

test("everything is reached by keys", async (t) => {
  const hq = await startHq(t, { viewport: { width: 1360, height: 860 } });
  const { url, page, api } = hq;
  const { nodes } = await fillChain(hq);
  t.after(() => nodes.forEach(({ node }) => node.end()));
  await signedIn(hq, "ada", "administrator");
  await page.getByRole("heading", { name: "Imaging now" }).waitFor();

  // g and a letter
  await page.keyboard.press("g");
  await page.keyboard.press("s");
  await page.getByRole("heading", { name: "Sites" }).waitFor();
  await page.getByRole("link", { name: siteName(0) }).waitFor();
  // rows: the focus goes along, and can be seen
  await page.keyboard.press("j");
  assert.equal(await focused(page), siteName(0));
  await page.keyboard.press("j");
  await page.keyboard.press("k");
  assert.equal(await focused(page), siteName(0));
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: siteName(0), level: 1 }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement?.id), "main", "who reads by ear begins with the view");

  // the palette finds what HQ has
  await page.keyboard.press("Control+k");
  await page.getByRole("dialog", { name: "Find" }).waitFor();
  await accessible(page);
  await page.keyboard.type("lienz");
  const first = page.getByRole("option", { name: siteName(1) });
  await first.waitFor();
  await picture(page, "palette");
  await until("it is chosen", async () => (await first.getAttribute("aria-selected")) === "true" || (await page.keyboard.press("ArrowDown"), false));
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: siteName(1), level: 1 }).waitFor();
  assert.equal(await page.getByRole("dialog").count(), 0);
  // and what can be done
  await page.keyboard.press("Control+k");
  await page.keyboard.type("new acc");
  await page.getByRole("option", { name: "New account" }).waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "New account" }).waitFor();
  // the focus stays in a dialog, and letters there are letters
  for (let tabs = 0; tabs < 12; tabs += 1) {
    await page.keyboard.press("Tab");
    assert.ok(await page.evaluate(() => document.activeElement === document.body || document.activeElement?.closest("dialog") !== null), `after ${tabs} tabs`);
  }
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });

  // what keys do
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await accessible(page);
  await picture(page, "keys-help");
  await page.keyboard.press("Escape");

  // several machines at once
  await page.goto(url + "/machines?state=waiting");
  await page.getByRole("table", { name: "machines" }).waitFor();
  const before = (await api("GET", "/machines?state=waiting")).rows.length;
  await page.keyboard.press("j");
  await page.keyboard.press("x");
  await page.keyboard.press("j");
  await page.keyboard.press("x");
  const bulk = page.getByRole("group", { name: "Selected machines" });
  await bulk.getByText("2 machines selected").waitFor();
  await accessible(page);
  await picture(page, "bulk");
  await bulk.getByRole("button", { name: "Approve 2" }).press("Enter");
  await until("both are approved", async () => (await api("GET", "/machines?state=waiting")).rows.length === before - 2);
  await bulk.waitFor({ state: "detached" });
  // what erases is typed
  await page.goto(url + "/orders?new=order");
  await page.getByLabel("Site", { exact: true }).last().fill(siteName(4));
  await page.getByLabel("Image machines again").press("Space");
  const order = page.getByRole("button", { name: "Order", exact: true });
  assert.ok(await order.isDisabled());
  await page.getByLabel(`Type "${siteName(4)}" to confirm`).fill(siteName(4));
  await order.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("row", { name: new RegExp(siteName(4) + ".*erases") }).waitFor();
  // the search
  await page.goto(url + "/sites");
  await page.getByRole("link", { name: siteName(0) }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("krems");
  await until("only such sites", async () => (await page.getByRole("table", { name: "sites" }).locator("tbody tr").count()) === 3);
});
