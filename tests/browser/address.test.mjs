// The whole state of a view is in its address: links, Back and reload bring it back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fillChain, siteName } from "./chain.mjs";
import { signedIn, startHq, until } from "./hq.mjs";

test("filters, order, search and the chosen row are in the address", async (t) => {
  const hq = await startHq(t);
  const { url, page } = hq;
  const { nodes } = await fillChain(hq);
  t.after(() => nodes.forEach(({ node }) => node.end()));
  await signedIn(hq, "ada", "operator", "/machines");
  const rows = page.getByRole("table", { name: "machines" }).locator("tbody tr");
  await rows.first().waitFor();
  await page.getByLabel("State").selectOption("done");
  await page.getByRole("button", { name: "Site", exact: true }).click();
  await page.getByLabel("Search serial, address, model").fill("optiplex");
  await until("the search in the address", () => page.url().includes("search=optiplex"));
  const address = new URL(page.url());
  assert.equal(address.pathname, "/machines");
  assert.deepEqual(Object.fromEntries(address.searchParams), { state: "done", sort: "site", search: "optiplex" });
  await until("only such machines", async () => (await rows.count()) > 0 && (await rows.allTextContents()).every((text) => text.includes("OptiPlex") && text.includes("done")));
  await page.getByRole("heading", { name: "Machines" }).click();
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  const chosen = await page.locator("tr.chosen").getAttribute("data-key");
  assert.equal(new URL(page.url()).searchParams.get("row"), chosen);

  // the same link in another tab
  const other = await page.context().newPage();
  await other.goto(page.url());
  await other.locator("tr.chosen").waitFor();
  assert.equal(await other.locator("tr.chosen").getAttribute("data-key"), chosen);
  assert.equal(await other.getByLabel("State").inputValue(), "done");
  assert.equal(await other.getByLabel("Search serial, address, model").inputValue(), "optiplex");
  await other.close();

  // into a machine, and back
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Who it is" }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Who it is" }).waitFor();
  await page.goBack();
  await page.locator("tr.chosen").waitFor();
  assert.equal(new URL(page.url()).searchParams.get("row"), chosen);
  // steps that people took are steps back
  await page.goBack();
  await until("the filter before", () => !page.url().includes("sort=site"));
});

test("a dialog is in the address, and what HQ refuses stays in it", async (t) => {
  const hq = await startHq(t);
  const { url, page, api } = hq;
  await api("POST", "/sites", { name: siteName(0) });
  await signedIn(hq, "ada", "operator", "/sites?new=site");
  await page.getByRole("dialog").waitFor();
  await page.getByLabel("Name", { exact: true }).fill(siteName(0));
  await page.getByRole("button", { name: "Make it" }).click();
  await page.getByRole("dialog").getByRole("alert").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(page.url(), url + "/sites");
  // one that was opened here is a step, which Back takes back, and so does closing it
  await page.goto(url + "/events");
  await page.getByRole("link", { name: "Sites", exact: true }).click();
  const open = page.getByRole("button", { name: "New site" });
  await open.click();
  await page.getByRole("dialog").waitFor();
  await page.goBack();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await open.click();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.goBack();
  await page.getByRole("heading", { name: "Events" }).waitFor();
});

test("a spreadsheet's faults are shown by line before anything is done", async (t) => {
  const hq = await startHq(t);
  const { page, api } = hq;
  await signedIn(hq, "ada", "operator", "/sites?new=import");
  const choose = (text) => page.getByLabel("File").setInputFiles({ name: "sites.csv", mimeType: "text/csv", buffer: Buffer.from(text) });
  await choose("name,unknown\nnorth,wait\nsouth,perhaps\n");
  const fault = page.getByRole("table", { name: "Faults" }).locator("tbody tr").first();
  await fault.waitFor();
  assert.match(await fault.textContent(), /^\s*3\s*unknown/);
  assert.ok(await page.getByRole("button", { name: "Import", exact: true }).isDisabled());
  await choose("name,unknown\nnorth,wait\nsouth,admit\n");
  await page.getByText("It would make 2 sites").waitFor();
  assert.equal((await api("GET", "/sites")).rows.length, 0);
  await page.getByRole("button", { name: "Import", exact: true }).click();
  await page.getByText("2 sites made").waitFor();
  await page.getByRole("button", { name: "Close" }).first().click();
  await page.getByRole("link", { name: "south" }).waitFor();
});
