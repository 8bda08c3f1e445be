// HQ's page in a browser, as people meet it: the first account, signing in and out, what an account reaches.
// A real HQ for each test; Chromium from Debian.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

const require = createRequire(process.env.LAMPLIGHTER_BROWSER_MODULES + "/");
const { chromium } = require("playwright-core");
const { AxeBuilder } = require("@axe-core/playwright");

const PASSWORD = "lamps at dusk";
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
});
after(() => browser.close());

// HQ prints where it is and how the first account is made
async function startHq(t) {
  const folder = mkdtempSync(join(tmpdir(), "lamplighter-page-"));
  const program = join(process.env.LAMPLIGHTER_BIN_DIR, "lamplighter");
  const hq = spawn(program, ["hq", "--dir", join(folder, "hq"), "--listen", "127.0.0.1:0"], {
    stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, LAMPLIGHTER_LOG: "error" },
  });
  const ended = new Promise((done) => hq.once("exit", done));
  const wrong = [];
  let context;
  t.after(async () => {
    // the page goes first: one whose HQ ends says so in its console
    await context?.close();
    hq.kill();
    await ended;
    rmSync(folder, { recursive: true });
    assert.deepEqual(wrong, [], "the page made mistakes");
  });
  const lines = createInterface({ input: hq.stdout })[Symbol.asyncIterator]();
  const url = (await lines.next()).value.split(" as ")[1];
  const setup = (await lines.next()).value.replace("make the first account: ", "");
  assert.ok(setup.startsWith(url + "/#setup="), setup);
  const token = readFileSync(join(folder, "hq", "admin-token"), "utf8").split("\n")[0];
  context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => {
    // refusals are in the console too, and are no mistake of the page
    if (message.type() === "error" && !message.text().includes("status of 40")) wrong.push(message.text());
  });
  const api = async (method, path, data) => {
    const answer = await context.request.fetch(url + "/api/v1" + path, {
      method, data, headers: { authorization: "Bearer " + token },
    });
    assert.ok(answer.ok(), `${method} ${path}: ${await answer.text()}`);
    return answer.status() === 204 ? null : answer.json();
  };
  return { url, setup, context, page, api };
}

async function accessible(page) {
  const found = await new AxeBuilder({ page }).analyze();
  assert.deepEqual(found.violations.map((v) => v.id + ": " + v.help), []);
}

// kept in docs/screenshots when somebody asks for it
async function picture(page, name) {
  const folder = process.env.LAMPLIGHTER_SCREENSHOTS;
  if (folder) await page.screenshot({ path: join(folder, name + ".png") });
}

async function signIn(page, name, password = PASSWORD) {
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}

test("the first account is made with the link that HQ prints", async (t) => {
  const { url, setup, page } = await startHq(t);
  await page.goto(setup);
  await page.getByRole("heading", { name: "Make the first account" }).waitFor();
  assert.equal(page.url(), url + "/", "the code stays in no history");
  assert.equal(await page.getByLabel("Code that HQ printed").inputValue(), setup.split("=")[1]);
  await accessible(page);
  await page.getByLabel("Name", { exact: true }).fill("ada");
  await page.getByLabel("Password").fill("short");
  await page.getByRole("button", { name: "Make it" }).click();
  await page.getByRole("alert").filter({ hasText: "at least 10 characters" }).waitFor();
  await page.getByLabel("Password").fill(PASSWORD);
  await page.keyboard.press("Enter");
  await page.getByText("ada, administrator").waitFor();
  await page.getByText("No site yet").waitFor();
  await accessible(page);
  await picture(page, "empty");
  await page.reload();
  await page.getByText("No site yet").waitFor();
  // no script reads the session
  assert.equal(await page.evaluate(() => document.cookie), "");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await accessible(page);
});

test("people sign in, see what they reach, and are asked again when their session ends", async (t) => {
  const { url, page, api } = await startHq(t);
  for (const name of ["near", "far"]) await api("POST", "/sites", { name });
  const scope = { sites: ["near"] };
  await api("POST", "/users", { name: "tess", role: "technician", scope, password: PASSWORD });
  await page.goto(url);
  await signIn(page, "tess", "lamps at dawn");
  await page.getByRole("alert").filter({ hasText: "no account has this name" }).waitFor();
  const live = page.waitForResponse((answer) => answer.url() === url + "/api/v1/live");
  await signIn(page, "tess");
  await page.getByText("tess, technician").waitFor();
  // the page watches too: without that it would only look every two seconds
  const watched = await live;
  assert.equal(watched.status(), 200);
  assert.equal(watched.headers()["content-type"], "text/event-stream");
  const sites = page.locator("#sites tbody tr");
  await sites.first().waitFor();
  assert.deepEqual(await sites.locator("td:first-child").allTextContents(), ["near"]);
  // what happens elsewhere shows by itself
  await api("PATCH", "/users/tess", { scope: { all: true } });
  await sites.nth(1).waitFor({ timeout: 3000 });
  await api("DELETE", "/users/tess/sessions");
  await page.getByRole("heading", { name: "Sign in" }).waitFor({ timeout: 3000 });
  assert.ok(await page.locator("#all").isHidden());
});

test("a phone shows all of it, in the dark too", async (t) => {
  const { url, page, api } = await startHq(t);
  await api("POST", "/sites", { name: "a store with a rather long name, in the north of the country" });
  await api("POST", "/users", { name: "ada", role: "viewer", password: PASSWORD });
  await page.setViewportSize({ width: 360, height: 740 });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.goto(url);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  const width = () => page.evaluate(() => document.documentElement.scrollWidth);
  assert.equal(await width(), 360);
  await picture(page, "sign-in-phone-dark");
  await signIn(page, "ada");
  await page.locator("#sites tbody tr").first().waitFor();
  assert.equal(await width(), 360);
  await accessible(page);
});
