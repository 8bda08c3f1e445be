// The ways in: the first account, wrong passwords, the authenticator, a session that ends.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { PASSWORD, accessible, fits, picture, signIn, signedIn, startHq, until } from "./hq.mjs";

test("the first account is made with the link that HQ prints", async (t) => {
  const { url, setup, page } = await startHq(t);
  await page.goto(setup);
  await page.getByRole("heading", { name: "Make the first account" }).waitFor();
  assert.equal(page.url(), url + "/", "the code stays in no history");
  assert.equal(await page.getByLabel("Code that HQ printed").inputValue(), setup.split("=")[1]);
  await accessible(page);
  await picture(page, "first-account");
  await page.getByLabel("Name", { exact: true }).fill("ada");
  await page.getByLabel("Password").fill("short");
  await page.getByRole("button", { name: "Make it" }).click();
  await page.getByRole("alert").filter({ hasText: "at least 10 characters" }).waitFor();
  await page.getByLabel("Password").fill(PASSWORD);
  await page.keyboard.press("Enter");
  // an empty chain says what comes next, and how
  await page.getByRole("heading", { name: "What comes next" }).waitFor();
  await page.getByText("lamplighter image import till.raw --name till").waitFor();
  await accessible(page);
  await picture(page, "beginning");
  await page.goBack();
  assert.equal(page.url().includes("setup"), false, "nothing of the code is behind Back");
  await page.goto(url);
  await page.getByRole("heading", { name: "What comes next" }).waitFor();
  // no script reads the session
  assert.equal(await page.evaluate(() => document.cookie), "");
  await page.getByRole("link", { name: "ada" }).click();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await accessible(page);
});

test("a wrong password is refused in words that stay, and the page comes back where it was", async (t) => {
  const { url, page, api } = await startHq(t);
  await api("POST", "/sites", { name: "north" });
  await api("POST", "/users", { name: "tess", role: "technician", password: PASSWORD });
  await page.goto(url + "/sites/north?state=failed");
  await signIn(page, "tess", "lamps at dawn");
  const refused = page.getByRole("alert").filter({ hasText: "no account has this name" });
  await refused.waitFor();
  await page.waitForTimeout(600);
  await refused.getByRole("button", { name: "Dismiss" }).click();
  await refused.waitFor({ state: "detached" });
  await signIn(page, "tess");
  await page.getByRole("heading", { name: "north" }).waitFor();
  assert.equal(page.url(), url + "/sites/north?state=failed");
});

/** RFC 6238: SHA-1, six digits, 30 s. */
function codeOf(secret, steps = 0) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = [...secret].map((letter) => letters.indexOf(letter).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const hash = createHmac("sha1", key).update(counter).digest();
  const value = hash.readUInt32BE(hash[19] & 15) & 0x7fffffff;
  return String(value % 1_000_000).padStart(6, "0");
}

test("an authenticator is set up, and asked for from then on", async (t) => {
  const hq = await startHq(t);
  const { page } = hq;
  await signedIn(hq, "tess", "viewer", "/account");
  await page.getByRole("button", { name: "Set one up" }).click();
  const secret = (await page.getByRole("region", { name: "Secret of the authenticator" }).textContent()).trim();
  await page.getByLabel("Code that it shows now").fill(codeOf(secret, -1));
  await page.getByRole("button", { name: "It counts from now on" }).click();
  await page.getByText("You are asked for a code of it").waitFor();
  await page.getByRole("button", { name: "Sign out" }).click();
  await signIn(page, "tess");
  await page.getByLabel("Code of your authenticator").waitFor();
  await accessible(page);
  await page.getByLabel("Code of your authenticator").fill("000000");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("alert").waitFor();
  await page.getByLabel("Code of your authenticator").fill(codeOf(secret));
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
});

test("a session that is ended elsewhere ends here, and goes on where it was", async (t) => {
  const hq = await startHq(t);
  const { url, page, api } = hq;
  await signedIn(hq, "tess", "viewer", "/machines?state=failed");
  await api("DELETE", "/users/tess/sessions");
  // nobody touches the page
  await page.getByText("Your session has ended").waitFor({ timeout: 20_000 });
  assert.equal(await page.getByRole("banner").count(), 0);
  await signIn(page, "tess");
  await page.getByRole("heading", { name: "Machines" }).waitFor();
  assert.equal(page.url(), url + "/machines?state=failed");
});

test("people see what they reach, and are offered what they may do", async (t) => {
  const hq = await startHq(t);
  const { page, api, url } = hq;
  for (const name of ["near", "far"]) await api("POST", "/sites", { name });
  await signedIn(hq, "tess", "technician", "/sites", { sites: ["near"] });
  const names = page.getByRole("table", { name: "sites" }).locator("tbody td:first-child");
  await names.first().waitFor();
  assert.deepEqual(await names.allTextContents(), ["near"]);
  for (const name of ["New site", "Import CSV"]) assert.equal(await page.getByRole("button", { name }).count(), 0, name);
  for (const name of ["People", "Audit", "Keys"]) assert.equal(await page.getByRole("link", { name }).count(), 0, name);
  await page.goto(url + "/sites/far");
  await page.getByRole("heading", { name: "This site is not known" }).waitFor();
  await page.goto(url + "/sites/near/nodes");
  await page.getByText("No node yet").waitFor();
  assert.equal(await page.getByRole("button", { name: "New token" }).count(), 0);
  // what is granted elsewhere shows by itself
  await page.goto(url + "/sites");
  await names.first().waitFor();
  await api("PATCH", "/users/tess", { scope: { all: true } });
  await until("the other site", async () => (await names.count()) === 2, 20_000);
});

test("a page whose HQ is away says so calmly, and goes on by itself", async (t) => {
  const hq = await startHq(t);
  const { page, api, stop } = hq;
  await api("POST", "/sites", { name: "north" });
  await signedIn(hq, "ada", "operator", "/sites");
  const names = page.getByRole("table", { name: "sites" }).locator("tbody td:first-child");
  await names.first().waitFor();
  const again = await stop();
  await page.getByText("HQ has not been heard for").waitFor();
  // what was there can be read on
  assert.deepEqual(await names.allTextContents(), ["north"]);
  await accessible(page);
  await picture(page, "away");
  await again();
  await api("POST", "/sites", { name: "south" });
  await page.getByText("HQ has not been heard for").waitFor({ state: "detached", timeout: 40_000 });
  await until("the new site", async () => (await names.count()) === 2, 20_000);
});

test("signing in fits a phone, in the dark too", async (t) => {
  const { url, page } = await startHq(t, { viewport: { width: 360, height: 740 }, colorScheme: "dark" });
  await page.goto(url);
  await page.getByRole("heading").first().waitFor();
  await fits(page);
  await accessible(page);
});
